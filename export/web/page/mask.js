// Painting the mask: with a pointer, a finger or the keys.

import { opaqueWhere } from "canvas";
import { PageError } from "errors";

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] };

/** A mask painted on a canvas over the photo. Strokes are recorded, so that they can be undone. */
export class Mask {
  /**
   * @param canvas over the photo
   * @param size an <input type="range">: the brush's share of the photo's longer side, in percent
   * @param changed is called when something is painted or taken back
   */
  constructor(canvas, size, changed) {
    this.canvas = canvas;
    this.size = size;
    this.changed = changed;
    this.strokes = [];
    this.ground = null; // what was painted elsewhere
    this.cursor = null; // where the keys have led
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.go(event));
    canvas.addEventListener("keydown", (event) => this.type(event));
    canvas.addEventListener("blur", () => this.draw((this.cursor = null)));
  }

  /** A mask for a photo of this size: empty, or an image of its size that is white where it is painted. */
  start(width, height, image = null) {
    Object.assign(this.canvas, { width, height });
    this.clear();
    this.ground = image;
    this.draw();
  }

  clear() {
    this.strokes = [];
    this.ground = null;
    this.changed();
    this.draw();
  }

  undo() {
    if (!this.strokes.pop()) this.ground = null;
    this.changed();
    this.draw();
  }

  stroke() {
    this.strokes.push({ brush: this.brush, points: [] });
    this.changed();
    return this.strokes.at(-1).points;
  }

  /** The promise of the mask as an ImageBitmap of the photo's size, opaque where it is painted. */
  async bitmap() {
    if (!this.strokes.length && !this.ground) throw new PageError("Nothing is marked yet: paint over what is to be filled in.");
    this.draw((this.cursor = null));
    return createImageBitmap(this.canvas);
  }

  get brush() {
    return Math.max(1, (this.size.value / 100) * Math.max(this.canvas.width, this.canvas.height));
  }

  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.stroke().push(this.place(event));
    this.draw();
  }

  go(event) {
    if (!this.canvas.hasPointerCapture(event.pointerId)) return;
    const events = event.getCoalescedEvents?.() ?? [];
    this.strokes.at(-1).points.push(...(events.length ? events : [event]).map((each) => this.place(each)));
    this.draw();
  }

  type(event) {
    const steps = STEPS[event.key];
    if (!steps) return;
    event.preventDefault();
    const { width, height } = this.canvas;
    const [x, y] = this.cursor ?? [width / 2, height / 2];
    const to = (place, step, side) => Math.min(side, Math.max(0, place + (step * this.brush) / 2));
    this.cursor = [to(x, steps[0], width), to(y, steps[1], height)];
    if (event.key === " ") this.stroke().push(this.cursor);
    this.draw();
  }

  place({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.canvas;
    return [((clientX - box.left) / box.width) * width, ((clientY - box.top) / box.height) * height];
  }

  draw() {
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.strokeStyle = context.fillStyle = getComputedStyle(this.canvas).color;
    context.lineCap = context.lineJoin = "round";
    if (this.ground) this.drawGround(context);
    for (const { brush, points } of this.strokes) {
      context.beginPath();
      context.arc(...points[0], brush / 2, 0, 2 * Math.PI); // of one point no line is drawn
      context.fill();
      context.lineWidth = brush;
      context.beginPath();
      for (const point of points) context.lineTo(...point);
      context.stroke();
    }
    if (!this.cursor) return;
    context.lineWidth = Math.max(1, this.brush / 12);
    context.beginPath();
    context.arc(...this.cursor, this.brush / 2, 0, 2 * Math.PI);
    context.stroke();
  }
  drawGround(context) {
    const { width, height } = this.ground;
    context.putImageData(opaqueWhere(this.ground), 0, 0);
    context.globalCompositeOperation = "source-in"; // in the color of the strokes
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
  }
}
