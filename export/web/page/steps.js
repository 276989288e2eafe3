// The images of the steps as a row of thumbnails; a click shows one of them large.

/** `list` is an <ol>, `canvas` shows the chosen image. */
export class Steps {
  constructor(list, canvas) {
    this.list = list;
    this.canvas = canvas;
  }

  clear() {
    this.list.replaceChildren();
  }

  /** Add what the canvas shows as the next step. */
  add() {
    const { width, height } = this.canvas;
    const copy = Object.assign(document.createElement("canvas"), { width, height });
    copy.getContext("2d").drawImage(this.canvas, 0, 0);
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(copy, `Step ${this.list.children.length + 1}`);
    button.addEventListener("click", () => {
      this.canvas.getContext("2d").drawImage(copy, 0, 0);
      this.mark(button);
    });
    this.list.appendChild(document.createElement("li")).append(button);
    this.mark(button);
  }

  mark(shown) {
    for (const button of this.list.querySelectorAll("button")) button.ariaPressed = button === shown;
  }
}
