// Runs lenet.tflite with LiteRT.js.
//
//     npm install @litertjs/core
//
//     import {load, classify} from './lenet.mjs';
//     const model = await load();
//     console.log(await classify(model, new Float32Array(784)));
//
// Serve node_modules/@litertjs/core/wasm at the address `wasm`.
import {getGlobalLiteRtPromise, loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';

export const LABELS = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

const WASM = '/node_modules/@litertjs/core/wasm/';

export async function load(model = new URL("lenet.tflite", import.meta.url).href, wasm = WASM) {
  await (getGlobalLiteRtPromise() ?? loadLiteRt(wasm)); // once for all files
  return loadAndCompile(model, {accelerator: 'wasm'});
}

// Real values as the integers of the file. The array rounds to even numbers and clips.
function quantize(values, scale, zeroPoint) {
  return Uint8Array.from(Uint8ClampedArray.from(values, (value) => value / scale + zeroPoint));
}

// Integers of the file as real values.
function dequantize(integers, scale, zeroPoint) {
  return Float32Array.from(integers, (integer) => scale * (integer - zeroPoint));
}

// Runs the signature classify.
//   images: real values (1, 28, 28, 1), uint8 pixels in [0, 255], in one array.
// Gives probabilities, real values (1, 10).
export async function classify(model, images) {
  const arrays = {
    "images": new Tensor(quantize(images, 1.0, 0), [1, 28, 28, 1]),
  };
  const outputs = await model.run("classify", arrays);
  const results = {
    "probabilities": dequantize(await outputs["probabilities"].data(), 0.00390625, 0),
  };
  for (const tensor of [...Object.values(arrays), ...Object.values(outputs)]) tensor.delete();
  return results;
}

// The label of the most probable class of the results.
export function label(results) {
  const values = results["probabilities"];
  return LABELS[values.indexOf(Math.max(...values))];
}
