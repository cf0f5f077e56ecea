// Without this script every gallery is shown; with it, one at a time.
for (const box of document.querySelectorAll("[data-galleries]")) {
  const galleries = [...box.querySelectorAll(".gallery")];
  const filter = box.querySelector(".filter");
  const select = filter.querySelector("select");
  const show = () => galleries.forEach((one, i) => { one.hidden = select.value !== "all" && select.value !== String(i); });
  const first = galleries.findIndex((one) => "first" in one.dataset);
  select.value = String(Math.max(first, 0));
  select.addEventListener("change", show);
  filter.hidden = false;
  show();
}
