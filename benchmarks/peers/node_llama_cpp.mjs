// What node-llama-cpp's formula says of a card: `{"path", "n_ctx", "settings"}` a line in, `{"card": bytes}` a line out.
// The formula is the one of `GgufInsights` that asks no engine; what it refuses, or does not know, is `{"refused": words}`.
import readline from "node:readline";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const require = createRequire(process.cwd() + "/");
const {getLlama, readGgufFileInfo, GgufInsights, LlamaLogLevel} = await import(
    pathToFileURL(require.resolve("node-llama-cpp")).href
);
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.disabled, skipDownload: true});
const types = {f32: 0, f16: 1, q4_0: 2, q4_1: 3, q5_0: 6, q5_1: 7, q8_0: 8, iq4_nl: 20, bf16: 30};
const headers = new Map();

for await (const line of readline.createInterface({input: process.stdin})) {
    const {path, n_ctx, settings} = JSON.parse(line);
    try {
        if (!headers.has(path)) {
            const info = await readGgufFileInfo(path, {sourceType: "filesystem", logWarnings: false});
            headers.set(path, await GgufInsights.from(info, llama));
        }
        const header = headers.get(path);
        const layers = header.totalLayers;
        const sequences = settings.n_seq_max ?? 1; // each with a context of its own
        const weights = header.estimateModelResourceRequirements({gpuLayers: layers});
        const context = header.estimateContextResourceRequirements({
            contextSize: Math.ceil(n_ctx / sequences), modelGpuLayers: layers, batchSize: settings.n_ubatch ?? 512,
            sequences, flashAttention: settings.flash_attn === "on",
            swaFullCache: settings.swa_full ?? false,
            kvCacheKeyType: types[settings.type_k ?? "f16"], kvCacheValueType: types[settings.type_v ?? "f16"]
        });
        console.log(JSON.stringify({card: weights.gpuVram + context.gpuVram}));
    } catch (error) {
        console.log(JSON.stringify({refused: String(error)}));
    }
}
process.exit(0);
