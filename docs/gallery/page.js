// What docs/gallery.md does: it runs exported files by the code of their snippets (*.mjs), which `keras-dl snippet` wrote.

const SIDE = 28; // of a digit of MNIST
const BOX = 20; // its ink fits into a box of so many pixels
const PEN = 22; // pixels of the pad
const WASM = new URL('litert/wasm/', import.meta.url).href;
const MODELS = ['lenet', 'tcn', 'gan'];
const POINTS = 500;
const EDGE = 2.5; // of the square in which the points are shown
// The last inputs of `step`, which hold the rows before: kernels of 8 steps, dilated by 1, 2 and 4, on 28 pixels or 24
// channels.
const STATES = {
  first_0: 7 * 28, first_1: 14 * 24, first_2: 28 * 24, second_0: 7 * 24, second_1: 14 * 24, second_2: 28 * 24,
};

const element = (id) => document.getElementById(id);
const pad = element('pad').getContext('2d', {willReadFrequently: true});

function clear() {
  pad.fillStyle = 'black';
  pad.fillRect(0, 0, pad.canvas.width, pad.canvas.height);
  element('bars').replaceChildren();
  element('answer').textContent = 'Nothing is drawn yet.';
  const {width, height} = element('rows');
  element('rows').getContext('2d').clearRect(0, 0, width, height);
}

// The ink of the pad, 0 to 1, as `{values, width, height}`.
function ink(context) {
  const {width, height} = context.canvas;
  const bytes = context.getImageData(0, 0, width, height).data;
  return {width, height, values: Float32Array.from({length: width * height}, (_, i) => bytes[4 * i] / 255)};
}

// Sum, center of mass, and the first and last column and row of an image's ink.
function measured({values, width}) {
  const found = {sum: 0, x: 0, y: 0, left: Infinity, right: -1, top: Infinity, bottom: -1};
  values.forEach((value, i) => {
    if (value === 0) return;
    const x = i % width, y = Math.floor(i / width);
    found.sum += value;
    found.x += value * x;
    found.y += value * y;
    found.left = Math.min(found.left, x);
    found.right = Math.max(found.right, x);
    found.top = Math.min(found.top, y);
    found.bottom = Math.max(found.bottom, y);
  });
  found.x /= found.sum;
  found.y /= found.sum;
  return found;
}

// The pad's drawing as MNIST has digits: uint8, 28 x 28; null of an empty pad.
function digit() {
  const drawn = measured(ink(pad));
  if (drawn.sum === 0) return null;
  const width = drawn.right - drawn.left + 1, height = drawn.bottom - drawn.top + 1;
  const scale = BOX / Math.max(width, height);
  const small = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  small.canvas.width = small.canvas.height = SIDE;
  small.imageSmoothingQuality = 'high';
  const copy = (left, top) => {
    small.fillStyle = 'black';
    small.fillRect(0, 0, SIDE, SIDE);
    small.drawImage(pad.canvas, drawn.left, drawn.top, width, height, left, top, width * scale, height * scale);
    return ink(small);
  };
  const left = (SIDE - width * scale) / 2, top = (SIDE - height * scale) / 2;
  const first = measured(copy(left, top));
  const middle = (SIDE - 1) / 2;
  const centered = copy(Math.round(left + middle - first.x), Math.round(top + middle - first.y));
  return Uint8Array.from(centered.values, (value) => Math.round(255 * value));
}

function showBars(probabilities) {
  element('bars').replaceChildren(...Array.from(probabilities, (probability, i) => {
    const bar = document.createElement('div');
    bar.style.width = `${100 * probability}%`;
    const row = document.createElement('div');
    row.append(`${i}`, bar, `${(100 * probability).toFixed(1)}%`);
    return row;
  }));
}

async function readByRows({tcn, models}, pixels) {
  const context = element('rows').getContext('2d');
  const {width, height} = context.canvas;
  let states = Object.fromEntries(Object.entries(STATES).map(([name, size]) => [name, new Float32Array(size)]));
  let probabilities;
  for (let y = 0; y < SIDE; ++y) {
    const row = Float32Array.from(pixels.subarray(SIDE * y, SIDE * (y + 1)), (pixel) => pixel / 255);
    const results = await tcn.step(models.tcn, row, ...Object.values(states));
    states = Object.fromEntries(Object.keys(states).map((name) => [name, results[`next_${name}`]]));
    probabilities = results.probabilities;
    probabilities.forEach((probability, x) => {
      context.fillStyle = `hsl(231 48% ${100 - 62 * probability}%)`;
      context.fillRect(x * width / 10, y * height / SIDE, width / 10, height / SIDE + 1);
    });
  }
  return probabilities.indexOf(Math.max(...probabilities));
}

async function answer(loaded) {
  const pixels = digit();
  if (pixels === null) return;
  const start = performance.now();
  const results = await loaded.lenet.classify(loaded.models.lenet, pixels);
  const milliseconds = performance.now() - start;
  showBars(results.probabilities);
  const read = await readByRows(loaded, pixels);
  element('answer').textContent =
    `It is a ${loaded.lenet.label(results)}, in ${milliseconds.toFixed(1)} ms. The TCN says ${read}.`;
}

// A value of the standard normal distribution, after Box and Muller.
function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

async function drawPoints({gan, models}) {
  const context = element('points').getContext('2d');
  const {width, height} = context.canvas;
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.fillStyle = '#3f51b5';
  const start = performance.now();
  for (let i = 0; i < POINTS; ++i) {
    const {samples: [x, y]} = await gan.generate(models.gan, [normal(), normal()]);
    context.fillRect(width * (x + EDGE) / (2 * EDGE) - 1, height * (EDGE - y) / (2 * EDGE) - 1, 2, 2);
  }
  element('count').textContent = `${POINTS} points in ${(performance.now() - start).toFixed(0)} ms`;
}

// Strokes of a mouse, a pen or a finger. The models answer at the end of each.
function takeStrokes(onStroke) {
  const {canvas} = pad;
  pad.strokeStyle = 'white';
  pad.lineWidth = PEN;
  pad.lineCap = pad.lineJoin = 'round';
  canvas.style.touchAction = 'none'; // a finger draws, and does not scroll
  const place = (event) => {
    const {left, top, width, height} = canvas.getBoundingClientRect();
    return [(event.clientX - left) * canvas.width / width, (event.clientY - top) * canvas.height / height];
  };
  let last = null;
  const draw = (event) => {
    const next = place(event);
    pad.beginPath();
    pad.moveTo(...last);
    pad.lineTo(...next);
    pad.stroke();
    last = next;
  };
  canvas.addEventListener('pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    draw(event);
  });
  canvas.addEventListener('pointermove', (event) => last && draw(event));
  for (const end of ['pointerup', 'pointercancel']) {
    canvas.addEventListener(end, () => {
      last = null;
      onStroke();
    });
  }
}

async function start() {
  const loaded = {models: {}};
  for (const name of MODELS) {
    loaded[name] = await import(`./${name}.mjs`);
    loaded.models[name] = await loaded[name].load(undefined, WASM);
  }
  let work = Promise.resolve(); // one run at a time: LiteRT.js has one memory
  const queue = (task) => {
    work = work.then(task).catch(fail);
    return work;
  };
  takeStrokes(() => queue(() => answer(loaded)));
  element('clear').addEventListener('click', clear);
  element('again').addEventListener('click', () => queue(() => drawPoints(loaded)));
  await queue(() => drawPoints(loaded));
  element('state').textContent = 'The models are loaded.';
}

function fail(error) {
  element('state').textContent =
    `The models do not run: ${error}. They need LiteRT.js beside the page, which \`make docs\` brings with npm.`;
  console.error(error);
}

clear();
start().catch(fail);
