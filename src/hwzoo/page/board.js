// A drawing board as large as the model's images. Its value is what is on it, as a PNG.
const size = props.size;
let canvas, paint, last = null, rubber = false, cursor = [size >> 1, size >> 1], shown = null;

function begin() {
  if (element.querySelector("canvas") === canvas) return;
  canvas = element.querySelector("canvas");
  paint = canvas.getContext("2d", { willReadFrequently: true });
  paint.fillStyle = "black";
  paint.fillRect(0, 0, size, size);
}

function show() {
  begin();
  if (props.value === shown) return;
  shown = props.value;
  if (!shown) { paint.fillStyle = "black"; paint.fillRect(0, 0, size, size); return; }
  const image = new Image();
  image.onload = () => paint.drawImage(image, 0, 0);
  image.src = shown;
}

function tell() {
  shown = canvas.toDataURL("image/png");
  props.value = shown;
  trigger("change");
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * size, (event.clientY - box.top) / box.height * size];
}

function line(from, to) {
  paint.strokeStyle = rubber ? "black" : "white";
  paint.lineWidth = size / 13;
  paint.lineCap = paint.lineJoin = "round";
  paint.beginPath();
  paint.moveTo(...from);
  paint.lineTo(to[0] + 0.01, to[1]);
  paint.stroke();
}

element.addEventListener("pointerdown", (event) => {
  if (event.target !== canvas) return;
  canvas.setPointerCapture(event.pointerId);
  last = place(event);
  line(last, last);
  event.preventDefault();
  canvas.focus();
});
element.addEventListener("pointermove", (event) => {
  if (!last) return;
  const next = place(event);
  line(last, next);
  last = next;
});
for (const kind of ["pointerup", "pointercancel"])
  element.addEventListener(kind, () => { if (last) { last = null; tell(); } });
element.addEventListener("click", (event) => {
  const what = event.target.dataset.do;
  if (!what) return;
  if (what === "clear") { paint.fillStyle = "black"; paint.fillRect(0, 0, size, size); tell(); return; }
  rubber = what === "rubber";
  element.querySelectorAll("[aria-pressed]").forEach((each) => each.setAttribute("aria-pressed", each.dataset.do === what));
});
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
element.addEventListener("keydown", (event) => {
  if (event.target !== canvas) return;
  const move = MOVES[event.key];
  if (move) cursor = cursor.map((each, axis) => Math.min(size - 1, Math.max(0, each + move[axis])));
  else if (event.key === " " || event.key === "Delete") {
    paint.fillStyle = event.key === " " ? "white" : "black";
    paint.fillRect(...cursor, Math.ceil(size / 14), Math.ceil(size / 14));
    tell();
  } else return;
  event.preventDefault();
  canvas.setAttribute("aria-label", `column ${cursor[0] + 1}, row ${cursor[1] + 1}`);
});
begin();
show();
watch("value", show);
