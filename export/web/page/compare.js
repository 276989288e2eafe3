// Before and after on top of each other, with a dividing line that a pointer, a finger or the keys move.

/** `view` shows the upper image from --split on; `range`, an <input type="range">, serves keys and screen readers. */
export function compare(view, range) {
  const show = () => view.style.setProperty("--split", `${range.value}%`);
  const follow = ({ clientX }) => {
    const box = view.getBoundingClientRect();
    range.value = (100 * (clientX - box.left)) / box.width;
    show();
  };
  range.addEventListener("input", show);
  view.addEventListener("pointerdown", (event) => {
    if (range.disabled) return;
    view.setPointerCapture(event.pointerId);
    follow(event);
  });
  view.addEventListener("pointermove", (event) => view.hasPointerCapture(event.pointerId) && follow(event));
  return (percent) => {
    range.value = percent;
    show();
  };
}
