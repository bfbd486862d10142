// The canvas of lesson 0: strokes and sliders go to Python, two pictures and a sentence come back.
// Nothing is loaded from anywhere.
const TOOLS = { freehand: "freehand", lines: "straight lines", circle: "circle" };
const SLIDERS = {
  grey: ["grey level", 0, 255, 1], opacity: ["opacity", 0.2, 1, 0.05],
  noise: ["noise", 0, 32, 1], texture: ["texture", 0, 40, 1], threshold: ["threshold", 0.05, 0.95, 0.05],
};
const STYLE = `
.play { display: flex; flex-wrap: wrap; gap: 12px; font: 14px sans-serif; }
.play canvas, .play img { width: 384px; height: 384px; border: 1px solid #888; display: block; }
.play canvas { cursor: crosshair; touch-action: none; }
.play button { margin: 0 4px 6px 0; padding: 3px 8px; }
.play button.on { outline: 2px solid #0072B2; }
.play label { display: grid; grid-template-columns: 90px 200px 50px; align-items: center; }`;

function add(parent, tag, properties = {}) {
  const child = Object.assign(document.createElement(tag), properties);
  parent.append(child);
  return child;
}

function render({ model, el }) {
  add(el, "style", { textContent: STYLE });
  const root = add(el, "div", { className: "play" });
  const left = add(root, "div"), right = add(root, "div");
  const size = model.get("size"), picture = new Image();
  let tool = "freehand", points = [], drawing = false;

  const bar = add(left, "div"), canvas = add(left, "canvas", { width: size, height: size });
  const buttons = {};
  for (const [name, text] of Object.entries(TOOLS)) {
    buttons[name] = add(bar, "button", { textContent: text, onclick: () => choose(name) });
  }
  add(bar, "button", { textContent: "undo", onclick: () => send(model.get("strokes").slice(0, -1)) });
  add(bar, "button", { textContent: "clear", onclick: () => send([]) });
  for (const [name, [text, min, max, step]] of Object.entries(SLIDERS)) {
    const row = add(left, "label", { textContent: text });
    const slider = add(row, "input", { type: "range", min, max, step, name });
    slider.value = model.get(name);
    const shown = add(row, "span", { textContent: slider.value });
    slider.oninput = () => { shown.textContent = slider.value; };
    slider.onchange = () => { model.set(name, Number(slider.value)); model.save_changes(); };
  }
  const tabs = add(right, "div"), answer = add(right, "img", { alt: "what the network sees" });
  const said = add(right, "p", { className: "said" });
  const views = {};
  for (const name of ["masks", "objects"]) {
    views[name] = add(tabs, "button", { textContent: name, onclick: () => {
      model.set("view", name); model.save_changes(); show();
    } });
  }

  function choose(name) {
    tool = name; points = []; drawing = false; draw();
    for (const key in buttons) buttons[key].className = key === tool ? "on" : "";
  }
  function send(strokes) {
    model.set("strokes", strokes);
    model.save_changes();
  }
  function finish() {
    const done = points;
    points = []; drawing = false;
    if (done.length >= (tool === "circle" ? 2 : 3)) {
      send([...model.get("strokes"), { tool, points: done, grey: model.get("grey"), opacity: model.get("opacity") }]);
    }
    draw();
  }
  function draw() {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, size, size);
    if (picture.complete && picture.naturalWidth) pen.drawImage(picture, 0, 0);
    if (!points.length) return;
    pen.strokeStyle = "#D55E00"; pen.lineWidth = 2; pen.beginPath();
    if (tool === "circle") {
      const [[x, y], [u, v]] = [points[0], points.at(-1)];
      pen.arc(x, y, Math.hypot(u - x, v - y), 0, 2 * Math.PI);
    } else {
      points.forEach(([x, y]) => pen.lineTo(x, y));
    }
    pen.stroke();
  }
  function at(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * size / box.width, (event.clientY - box.top) * size / box.height];
  }
  canvas.onpointerdown = (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    if (tool === "lines") {
      const here = at(event), first = points[0];
      if (points.length > 2 && Math.hypot(here[0] - first[0], here[1] - first[1]) < 12) return finish();
      points.push(here);
    } else {
      points = [at(event)]; drawing = true;
    }
    draw();
  };
  canvas.onpointermove = (event) => { if (drawing) { points.push(at(event)); draw(); } };
  canvas.onpointerup = () => { if (drawing) finish(); };
  canvas.onpointercancel = () => { points = []; drawing = false; draw(); };
  canvas.ondblclick = () => { if (tool === "lines") finish(); };

  function show() {
    picture.onload = draw;
    picture.src = model.get("image");
    answer.src = model.get("answer");
    said.textContent = model.get("said");
    for (const key in views) views[key].className = key === model.get("view") ? "on" : "";
  }
  model.on("change:answer change:image change:said", show);
  choose(tool);
  show();
}

export default { render };
