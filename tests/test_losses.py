"""The losses equal their definitions, ignore unlabelled samples and stay finite."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from rbmodel.losses import AUC_CAP_AS_PUBLISHED, absolute_error, auc_hinge, cross_entropy, scores_of

SCORES = st.lists(st.tuples(st.floats(-8, 8), st.sampled_from([-1, 0, 1])), min_size=1, max_size=12)


def _logits(scores):
    scores = torch.as_tensor(scores, dtype=torch.float32)
    return torch.stack([-scores / 2, scores / 2], dim=1)


@given(SCORES, st.sampled_from([None, AUC_CAP_AS_PUBLISHED]))
@settings(max_examples=60, deadline=None)
def test_auc_hinge_is_the_mean_over_pairs(samples, cap):
    scores, labels = zip(*samples, strict=True)
    terms = []
    for real in (s for s, label in samples if label == 1):
        for bogus in (s for s, label in samples if label == 0):
            hinge = max(bogus - real + 0.25, 0)
            terms.append(np.exp(min(hinge, cap or np.inf)) - 1)
    loss = auc_hinge(_logits(scores), torch.tensor(labels), cap=cap)
    assert float(loss) == pytest.approx(np.mean(terms) if terms else 0, rel=1e-4, abs=1e-5)


def test_auc_hinge_vanishes_when_all_pairs_are_in_order_by_the_margin():
    labels = torch.tensor([1, 0, 0])
    assert float(auc_hinge(_logits([0.26, 0.0, -3.0]), labels)) == 0
    assert float(auc_hinge(_logits([0.24, 0.0, -3.0]), labels)) > 0


@pytest.mark.parametrize(("cap", "has_gradient"), [(None, True), (AUC_CAP_AS_PUBLISHED, False)])
def test_only_the_published_cap_leaves_the_worst_pair_without_gradient(cap, has_gradient):
    logits = _logits([-200.0, 200.0]).requires_grad_(True)
    loss = auc_hinge(logits, torch.tensor([1, 0]), cap=cap)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.all(torch.isfinite(logits.grad))
    assert bool(torch.any(logits.grad != 0)) is has_gradient


def test_auc_hinge_grows_and_is_smooth_where_the_exponential_ends():
    labels = torch.tensor([1, 0])
    values = np.array([float(auc_hinge(_logits([0.0, s]), labels)) for s in (18.75, 19.75, 20.75, 21.75)])
    slopes = np.diff(values)
    assert np.all(slopes > 0)
    assert slopes[2] == pytest.approx(np.exp(20), rel=1e-3)


def test_auc_hinge_without_a_class_is_zero_with_zero_gradient():
    logits = _logits([1.0, 2.0]).requires_grad_(True)
    loss = auc_hinge(logits, torch.tensor([1, -1]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.all(logits.grad == 0)


def test_cross_entropy_is_the_log_loss_of_the_labelled():
    scores, labels = np.array([0.3, -2.0, 1.5, 9.0]), np.array([1, 0, 0, -1])
    probability = 1 / (1 + np.exp(-scores[:3]))
    expected = log_loss(labels[:3], probability)
    assert float(cross_entropy(_logits(scores), torch.from_numpy(labels))) == pytest.approx(
        expected, rel=1e-5
    )
    assert float(cross_entropy(_logits(scores), torch.full((4,), -1))) == 0


def test_scores_are_the_logit_of_the_probability():
    logits = torch.tensor([[0.5, 2.0], [1.0, -1.0]])
    torch.testing.assert_close(torch.sigmoid(scores_of(logits)), torch.softmax(logits, dim=1)[:, 1])


@given(
    st.lists(st.tuples(st.floats(-8, 8), st.sampled_from([0, 1])), min_size=1, max_size=12),
    st.floats(0, 0.49),
)
@settings(max_examples=60, deadline=None)
def test_random_wrong_labels_do_not_reorder_the_absolute_error(samples, rate):
    """Expectation over symmetric flips = (1 - 2 rate) * clean + rate: the same order of networks."""
    scores, labels = zip(*samples, strict=True)
    logits, labels = _logits(scores), torch.tensor(labels)
    clean, flipped = float(absolute_error(logits, labels)), float(absolute_error(logits, 1 - labels))
    assert (1 - rate) * clean + rate * flipped == pytest.approx((1 - 2 * rate) * clean + rate, abs=1e-5)


def test_absolute_error_ignores_the_unlabelled():
    logits = _logits([0.0, 50.0, 50.0])
    assert float(absolute_error(logits, torch.tensor([1, 1, -1]))) == pytest.approx(0.25)
