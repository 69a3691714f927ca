// Runs gan.tflite with LiteRT.js.
//
//     npm install @litertjs/core
//
//     import {load, generate} from './gan.mjs';
//     const model = await load();
//     console.log(await generate(model, new Float32Array(2)));
//
// Serve node_modules/@litertjs/core/wasm at the address `wasm`.
import {getGlobalLiteRtPromise, loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';

const WASM = '/node_modules/@litertjs/core/wasm/';

export async function load(model = new URL("gan.tflite", import.meta.url).href, wasm = WASM) {
  await (getGlobalLiteRtPromise() ?? loadLiteRt(wasm)); // once for all files
  return loadAndCompile(model, {accelerator: 'wasm'});
}

// Runs the signature generate.
//   noise: float32 (1, 2), float32 coordinates, in one array.
// Gives samples, float32 (1, 2).
export async function generate(model, noise) {
  const arrays = {
    "noise": new Tensor(Float32Array.from(noise), [1, 2]),
  };
  const outputs = await model.run("generate", arrays);
  const results = {
    "samples": (await outputs["samples"].data()).slice(),
  };
  for (const tensor of [...Object.values(arrays), ...Object.values(outputs)]) tensor.delete();
  return results;
}
