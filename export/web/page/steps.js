// The images of the steps as a row of thumbnails; a click shows one of them large.

/** `list` is an <ol>, `canvas` shows the chosen image. */
export class Steps {
  constructor(list, canvas) {
    this.list = list;
    this.canvas = canvas;
    this.clear();
  }

  clear() {
    this.list.replaceChildren();
    this.shown = this.last = 0;
  }

  /** Add what the canvas shows as the image of a step, counted from 1. */
  add(step) {
    const { width, height } = this.canvas;
    const copy = Object.assign(document.createElement("canvas"), { width, height });
    copy.getContext("2d").drawImage(this.canvas, 0, 0);
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(copy, `Step ${step}`);
    button.addEventListener("click", () => {
      this.canvas.getContext("2d").drawImage(copy, 0, 0);
      this.mark(button, step);
    });
    this.list.appendChild(document.createElement("li")).append(button);
    this.last = step;
    this.mark(button, step);
  }

  mark(shown, step) {
    this.shown = step;
    for (const button of this.list.querySelectorAll("button")) button.ariaPressed = button === shown;
  }
}
