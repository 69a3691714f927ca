// Runs tcn.tflite with LiteRT.js.
//
//     npm install @litertjs/core
//
//     import {load, sequence} from './tcn.mjs';
//     const model = await load();
//     console.log(await sequence(model, new Float32Array(784)));
//
// Serve node_modules/@litertjs/core/wasm at the address `wasm`.
import {getGlobalLiteRtPromise, loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';

export const LABELS = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

const WASM = '/node_modules/@litertjs/core/wasm/';

export async function load(model = new URL("tcn.tflite", import.meta.url).href, wasm = WASM) {
  await (getGlobalLiteRtPromise() ?? loadLiteRt(wasm)); // once for all files
  return loadAndCompile(model, {accelerator: 'wasm'});
}

// Runs the signature sequence.
//   features: float32 (1, 28, 28), float32, pixels over 255 or symbols over 9, in one array.
// Gives probabilities, float32 (1, 10).
export async function sequence(model, features) {
  const arrays = {
    "features": new Tensor(Float32Array.from(features), [1, 28, 28]),
  };
  const outputs = await model.run("sequence", arrays);
  const results = {
    "probabilities": (await outputs["probabilities"].data()).slice(),
  };
  for (const tensor of [...Object.values(arrays), ...Object.values(outputs)]) tensor.delete();
  return results;
}

// Runs the signature step.
//   features: float32 (1, 28), float32, pixels over 255 or symbols over 9, in one array.
//   first_0: float32 (1, 7, 28), in one array.
//   first_1: float32 (1, 14, 24), in one array.
//   first_2: float32 (1, 28, 24), in one array.
//   second_0: float32 (1, 7, 24), in one array.
//   second_1: float32 (1, 14, 24), in one array.
//   second_2: float32 (1, 28, 24), in one array.
// Gives next_first_0, float32 (1, 7, 28); next_first_1, float32 (1, 14, 24); next_first_2, float32 (1, 28, 24); next_second_0, float32 (1, 7, 24); next_second_1, float32 (1, 14, 24); next_second_2, float32 (1, 28, 24); probabilities, float32 (1, 10).
export async function step(model, features, first_0, first_1, first_2, second_0, second_1, second_2) {
  const arrays = {
    "features": new Tensor(Float32Array.from(features), [1, 28]),
    "first_0": new Tensor(Float32Array.from(first_0), [1, 7, 28]),
    "first_1": new Tensor(Float32Array.from(first_1), [1, 14, 24]),
    "first_2": new Tensor(Float32Array.from(first_2), [1, 28, 24]),
    "second_0": new Tensor(Float32Array.from(second_0), [1, 7, 24]),
    "second_1": new Tensor(Float32Array.from(second_1), [1, 14, 24]),
    "second_2": new Tensor(Float32Array.from(second_2), [1, 28, 24]),
  };
  const outputs = await model.run("step", arrays);
  const results = {
    "next_first_0": (await outputs["next_first_0"].data()).slice(),
    "next_first_1": (await outputs["next_first_1"].data()).slice(),
    "next_first_2": (await outputs["next_first_2"].data()).slice(),
    "next_second_0": (await outputs["next_second_0"].data()).slice(),
    "next_second_1": (await outputs["next_second_1"].data()).slice(),
    "next_second_2": (await outputs["next_second_2"].data()).slice(),
    "probabilities": (await outputs["probabilities"].data()).slice(),
  };
  for (const tensor of [...Object.values(arrays), ...Object.values(outputs)]) tensor.delete();
  return results;
}

// The label of the most probable class of the results.
export function label(results) {
  const values = results["probabilities"];
  return LABELS[values.indexOf(Math.max(...values))];
}
