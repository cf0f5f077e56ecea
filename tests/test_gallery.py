"""The gallery shows the stamps of the rows it names, the worst first, and says what is known of them."""

import numpy as np
import pytest
from _report_run import KIND, make_store

from rbmodel import gallery
from rbsim import schema


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "stamps.zarr")


def test_misclassified_are_the_worst_first():
    arrays = {
        "test_row": np.array([10, 11, 12, 13, 14, 15]),
        "test_score": np.array([2.0, 5.0, -3.0, -1.0, 0.0, 4.0]),
        "test_label_true": np.array([0, 0, 1, 1, 0, 1]),
        "test_kind": np.array([KIND["artefact"], KIND["detection"], 2, 2, KIND["artefact"], 2]),
    }
    positives, negatives = gallery.misclassified(arrays, threshold=0.0, n_max=2)
    assert [pick.row for pick in positives.picks] == [11, 10]
    assert [pick.verdict for pick in positives.picks] == ["assumed bogus called real", "bogus called real"]
    assert [pick.row for pick in negatives.picks] == [12, 13]
    assert (positives.n_total, negatives.n_total) == (3, 2)


def test_suspicious_labels_say_what_is_known_of_the_truth():
    arrays = {
        "train_row": np.arange(5),
        "train_oof_score": np.array([6.0, -4.0, 3.0, -9.0, 2.0]),
        "train_label_given": np.array([0, 1, 0, 0, 0]),
        "train_label_true": np.array([1, 1, 0, 0, -1]),
    }
    source = np.array(
        [schema.LABEL_SOURCES[name] for name in ("injected", "injected", "assumed", "assumed", "emulator")]
    )
    choice = gallery.suspicious(arrays, label_true_source=source, n_max=24)
    assert [(pick.row, pick.verdict) for pick in choice.picks] == [
        (0, "given bogus: mislabel"),
        (1, "given real: label is right"),
        (2, "given bogus: label is right (assumed)"),
        (4, "given bogus; truth unknown"),
    ]
    del arrays["train_label_true"]
    unknown = gallery.suspicious(arrays, label_true_source=source, n_max=1)
    assert [pick.verdict for pick in unknown.picks] == ["given bogus; truth unknown"]


def test_stretch_keeps_order_and_marks_missing_pixels(store):
    stamps = store.read_stamps(np.array([0, 5]))
    levels = gallery.stretch(stamps)
    assert np.array_equal(levels == gallery.NO_PIXEL, ~np.isfinite(stamps))
    assert np.isnan(stamps[0]).any()
    for values, grey in zip(stamps[1], levels[1], strict=True):
        assert np.all(np.diff(grey.ravel()[np.argsort(values.ravel())].astype(int)) >= 0)
    flat = gallery.stretch(np.zeros((1, 3, 29, 29), np.float32))
    assert abs(int(flat[0, 2, 0, 0]) - gallery.GREY_LEVELS / 2) <= 1


def test_card_shows_the_stamp_of_its_row(store):
    choice = gallery.Choice(
        "x", tuple(gallery.Pick(row, 0.0, "", "wrong") for row in (30, 4, 30, 250)), 4, False
    )
    album = gallery.album(store, [choice])
    assert (album.n_columns, album.n_rows) == (3, 1)
    assert [card.x_percent for card in album.galleries[0]] == [50, 0, 50, 100]
    assert album.galleries[0][3].frame == "night1_b.fits"
    assert album.galleries[0][0].x_pix == store.column("x_pix")[30]
    image = gallery.Image.open(gallery.io.BytesIO(gallery.base64.b64decode(album.png_base64)))
    sheet = np.asarray(image)
    left = gallery.CELL_WIDTH_PIX + gallery.GAP_PIX
    shown = sheet[gallery.GAP_PIX : gallery.GAP_PIX + 29, left : left + 29]
    assert np.array_equal(shown[::-1], gallery.stretch(store.read_stamps(np.array([30])))[0, 0])
