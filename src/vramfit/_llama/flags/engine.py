"""Every flag of the pinned engine's programs, as facts: spellings, values, environment variable, and what it sizes.

Source: common/arg.cpp:1443-4740 of the pinned build; `tests/test_flags.py` compares where its source is at hand. An
entry is `names ~negations =values $VARIABLE`, entries end with `;`. In `SETS` an entry starts with the field of
`Settings` that the flag sets and how its value is read. What is in no other text sizes nothing.
"""

from __future__ import annotations

from typing import Final

__all__ = ["COMPANY", "HOST", "MODEL", "NOTHING", "OLDER", "OTHER", "REFUSED", "SETS", "UNCOUNTED"]

# The fields of `Settings`; `n_ctx_slot` is a context for each slot, from which `n_ctx` follows (server.cpp:166).
SETS: Final = """
    n_ctx:context -c --ctx-size =1 $LLAMA_ARG_CTX_SIZE ;
    n_ctx_slot:count --kv-unified-per-slot =1 $LLAMA_ARG_KV_UNIFIED_PER_SLOT ;
    n_batch:count -b --batch-size =1 $LLAMA_ARG_BATCH ;
    n_ubatch:count -ub --ubatch-size =1 $LLAMA_ARG_UBATCH ;
    swa_full:on --swa-full $LLAMA_ARG_SWA_FULL ;
    kv_unified:on -kvu --kv-unified ~-no-kvu ~--no-kv-unified $LLAMA_ARG_KV_UNIFIED ;
    flash_attn:switch -fa --flash-attn =1 $LLAMA_ARG_FLASH_ATTN ;
    offload_kqv:on -kvo --kv-offload ~-nkvo ~--no-kv-offload $LLAMA_ARG_KV_OFFLOAD ;
    type_k:name -ctk --cache-type-k =1 $LLAMA_ARG_CACHE_TYPE_K ;
    type_v:name -ctv --cache-type-v =1 $LLAMA_ARG_CACHE_TYPE_V ;
    n_seq_max:slots -np --parallel =1 $LLAMA_ARG_N_PARALLEL ;
    cpu_tensors:overrides -ot --override-tensor =1 $LLAMA_ARG_OVERRIDE_TENSOR ;
    cpu_tensors:experts -cmoe --cpu-moe $LLAMA_ARG_CPU_MOE ;
    cpu_tensors:first_experts -ncmoe --n-cpu-moe =1 $LLAMA_ARG_N_CPU_MOE ;
    cpu_tensors:first_dense -ncffn --n-cpu-ffn =1 $LLAMA_ARG_N_CPU_FFN ;
    n_gpu_layers:layers -ngl --gpu-layers --n-gpu-layers =1 $LLAMA_ARG_N_GPU_LAYERS ;
    split_mode:mode -sm --split-mode =1 $LLAMA_ARG_SPLIT_MODE ;
    tensor_split:shares -ts --tensor-split =1 $LLAMA_ARG_TENSOR_SPLIT ;
    main_gpu:number -mg --main-gpu =1 $LLAMA_ARG_MAIN_GPU ;
    op_offload:on --op-offload ~--no-op-offload ;
    embeddings:on --embedding --embeddings $LLAMA_ARG_EMBEDDINGS ;
    load_mode:load -lm --load-mode =1 $LLAMA_ARG_LOAD_MODE ;
    embeddings:rerank --rerank --reranking $LLAMA_ARG_RERANKING ;
    pooling:pooling --pooling =1 $LLAMA_ARG_POOLING ;
    spec_type:methods --spec-type =1 $LLAMA_ARG_SPEC_TYPE ;
    spec_draft_n_max:number --spec-draft-n-max =1 $LLAMA_ARG_SPEC_DRAFT_N_MAX ;
"""

# Which model: `cli.models` and whoever reads a whole command line look there.
MODEL: Final = """
    -m --model =1 $LLAMA_ARG_MODEL; -mu --model-url =1 $LLAMA_ARG_MODEL_URL;
    -dr --docker-repo =1 $LLAMA_ARG_DOCKER_REPO; -hf -hfr --hf-repo =1 $LLAMA_ARG_HF_REPO;
    -hff --hf-file =1 $LLAMA_ARG_HF_FILE; -hft --hf-token =1 $HF_TOKEN;
"""

# What is loaded beside the model, and where: arguments of `accompany`.
COMPANY: Final = """
    draft:path --spec-draft-model -md --model-draft =1 $LLAMA_ARG_SPEC_DRAFT_MODEL;
    draft:hub --spec-draft-hf -hfd -hfrd --hf-repo-draft =1 $LLAMA_ARG_SPEC_DRAFT_HF_REPO;
    draft_type_k:name --spec-draft-type-k -ctkd --cache-type-k-draft =1 $LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K;
    draft_type_v:name --spec-draft-type-v -ctvd --cache-type-v-draft =1 $LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V;
    draft_cpu_tensors:overrides --spec-draft-override-tensor -otd --override-tensor-draft =1;
    draft_cpu_tensors:experts --spec-draft-cpu-moe -cmoed --cpu-moe-draft $LLAMA_ARG_SPEC_DRAFT_CPU_MOE;
    draft_cpu_tensors:first_experts --spec-draft-n-cpu-moe --spec-draft-ncmoe -ncmoed --n-cpu-moe-draft =1
        $LLAMA_ARG_SPEC_DRAFT_N_CPU_MOE;
    draft_devices:devices --spec-draft-device -devd --device-draft =1;
    draft_n_gpu_layers:layers --spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft =1
        $LLAMA_ARG_N_GPU_LAYERS_DRAFT;
    mmproj:path -mm --mmproj =1 $LLAMA_ARG_MMPROJ;
    mmproj:path -mmu --mmproj-url =1 $LLAMA_ARG_MMPROJ_URL;
    mmproj_auto:on --mmproj-auto ~--no-mmproj ~--no-mmproj-auto $LLAMA_ARG_MMPROJ_AUTO;
    mmproj_offload:on --mmproj-offload ~--no-mmproj-offload $LLAMA_ARG_MMPROJ_OFFLOAD;
    mmproj_device:devices -mmdev --mmproj-device =1 $MTMD_BACKEND_DEVICE;
    image_min_tokens:count --image-min-tokens =1 $LLAMA_ARG_IMAGE_MIN_TOKENS;
    image_max_tokens:count --image-max-tokens =1 $LLAMA_ARG_IMAGE_MAX_TOKENS;
    lora:files --lora =1; lora:scaled --lora-scaled =1;
    control_vector:files --control-vector =1; control_vector:scaled --control-vector-scaled =1;
"""

# Caches of prompts, checkpoints, repacking: memory of the host, which no card sees and no plan counts.
HOST: Final = """
    -lcs --lookup-cache-static =1; -lcd --lookup-cache-dynamic =1;
    -ctxcp --ctx-checkpoints --swa-checkpoints =1 $LLAMA_ARG_CTX_CHECKPOINTS;
    -cms --checkpoint-min-step =1 $LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT; -cram --cache-ram =1 $LLAMA_ARG_CACHE_RAM;
    --cache-idle-slots ~--no-cache-idle-slots $LLAMA_ARG_CACHE_IDLE_SLOTS;
    --repack ~-nr ~--no-repack $LLAMA_ARG_REPACK; --no-host $LLAMA_ARG_NO_HOST;
    -lzm --lazy-mode =1 $LLAMA_ARG_LAZY_MODE; --numa =1 $LLAMA_ARG_NUMA;
"""

# Spellings of other builds, which people still have: as in `SETS`. Together they make one mode (`line`).
OLDER: Final = """
    load_mode:mlock --mlock ; load_mode:mmap --mmap ~--no-mmap ; load_mode:direct_io -dio --direct-io ~-ndio ~--no-direct-io ;
"""

# They take memory, or change what takes it, and are not planned: why -> flags.
UNCOUNTED: Final = {
    "speculative decoding: more rows of logits": """
    --spec-ngram-mod-n-max =1; --draft --draft-n --draft-max =1 $LLAMA_ARG_DRAFT_MAX; --spec-default;
""",
    "sampling on the cards: its buffers": """
    -bs --backend-sampling $LLAMA_ARG_BACKEND_SAMPLING;
    --spec-draft-backend-sampling ~--no-spec-draft-backend-sampling $LLAMA_ARG_SPEC_DRAFT_BACKEND_SAMPLING;
""",
    "which devices: name with --gpus those that it lists, in that order": """
    -dev --device =1 $LLAMA_ARG_DEVICE;
""",
    "cards of other machines: name them with --gpus, as in mini/3090ti": """
    --rpc =1 $LLAMA_ARG_RPC;
""",
    "changed metadata: the file's own header is planned for": """
    --override-kv =1;
""",
    "a router: it loads several models, each of which needs a plan": """
    --models-dir =1 $LLAMA_ARG_MODELS_DIR; --models-preset =1 $LLAMA_ARG_MODELS_PRESET;
    --models-max =1 $LLAMA_ARG_MODELS_MAX;
""",
}

# They choose a model and its sizes by themselves (arg.cpp:4559-4720).
REFUSED: Final = {
    "names a model and sizes of its own: write them out": """
    --embd-gemma-default; --fim-qwen-1.5b-default; --fim-qwen-3b-default; --fim-qwen-7b-default; --fim-qwen-7b-spec;
    --fim-qwen-14b-spec; --fim-qwen-30b-default; --gpt-oss-20b-default; --gpt-oss-120b-default;
    --vision-gemma-4b-default; --vision-gemma-12b-default;
""",
}

NOTHING: Final = """
    -h --help --usage; --version; -cl --cache-list; --completion-bash; -t --threads =1 $LLAMA_ARG_THREADS;
    -tb --threads-batch =1; -C --cpu-mask =1; -Cr --cpu-range =1; --cpu-strict =1; --prio =1; --poll =1;
    -Cb --cpu-mask-batch =1; -Crb --cpu-range-batch =1; --cpu-strict-batch =1; --prio-batch =1; --poll-batch =1;
    -n --predict --n-predict =1 $LLAMA_ARG_N_PREDICT; --keep =1;
    --context-shift ~--no-context-shift $LLAMA_ARG_CONTEXT_SHIFT; -p --prompt =1; --perf ~--no-perf $LLAMA_ARG_PERF;
    -f --file =1; -bf --binary-file =1; -e --escape ~--no-escape; -r --reverse-prompt =1; -sp --special;
    --warmup ~--no-warmup; --spm-infill; --samplers =1; -s --seed =1; --sampler-seq --sampling-seq =1; --ignore-eos;
    --temp --temperature =1 $LLAMA_ARG_TEMPERATURE; --top-k =1 $LLAMA_ARG_TOP_K; --top-p =1 $LLAMA_ARG_TOP_P;
    --min-p =1 $LLAMA_ARG_MIN_P; --top-nsigma --top-n-sigma =1; --xtc-probability =1; --xtc-threshold =1;
    --typical --typical-p =1; --repeat-last-n =1; --repeat-penalty =1 $LLAMA_ARG_REPEAT_PENALTY;
    --presence-penalty =1 $LLAMA_ARG_PRESENCE_PENALTY; --frequency-penalty =1 $LLAMA_ARG_FREQUENCY_PENALTY;
    --dry-multiplier =1; --dry-base =1; --dry-allowed-length =1; --dry-penalty-last-n =1; --dry-sequence-breaker =1;
    --adaptive-target =1; --adaptive-decay =1; --dynatemp-range =1; --dynatemp-exp =1; --mirostat =1;
    --mirostat-lr =1; --mirostat-ent =1; -l --logit-bias =1; --grammar =1; --grammar-file =1; -j --json-schema =1;
    -jf --json-schema-file =1; --rope-scaling =1 $LLAMA_ARG_ROPE_SCALING_TYPE;
    --rope-scale =1 $LLAMA_ARG_ROPE_SCALE; --rope-freq-base =1 $LLAMA_ARG_ROPE_FREQ_BASE;
    --rope-freq-scale =1 $LLAMA_ARG_ROPE_FREQ_SCALE; --yarn-orig-ctx =1 $LLAMA_ARG_YARN_ORIG_CTX;
    --yarn-ext-factor =1 $LLAMA_ARG_YARN_EXT_FACTOR; --yarn-attn-factor =1 $LLAMA_ARG_YARN_ATTN_FACTOR;
    --yarn-beta-slow =1 $LLAMA_ARG_YARN_BETA_SLOW; --yarn-beta-fast =1 $LLAMA_ARG_YARN_BETA_FAST;
    -dt --defrag-thold =1 $LLAMA_ARG_DEFRAG_THOLD;
    -cb --cont-batching ~-nocb ~--no-cont-batching $LLAMA_ARG_CONT_BATCHING;
    --mtmd-batch-max-tokens =1 $LLAMA_ARG_MTMD_BATCH_MAX_TOKENS; --video-fps =1 $LLAMA_ARG_VIDEO_FPS;
    --video-timestamp-interval =1 $LLAMA_ARG_VIDEO_TIMESTAMP_INTERVAL;
    --video-ffmpeg-dir =1 $LLAMA_ARG_VIDEO_FFMPEG_DIR; --list-devices; -fit --fit =1 $LLAMA_ARG_FIT;
    -fitt --fit-target =1 $LLAMA_ARG_FIT_TARGET; -fitc --fit-ctx =1 $LLAMA_ARG_FIT_CTX; --check-tensors;
    --control-vector-layer-range =2; -a --alias =1 $LLAMA_ARG_ALIAS; --tags =1 $LLAMA_ARG_TAGS; --embd-normalize =1;
    --host =1 $LLAMA_ARG_HOST; --port =1 $LLAMA_ARG_PORT; --reuse-port $LLAMA_ARG_REUSE_PORT;
    --path =1 $LLAMA_ARG_STATIC_PATH; --cors-origins =1 $LLAMA_ARG_CORS_ORIGINS;
    --cors-methods =1 $LLAMA_ARG_CORS_METHODS; --cors-headers =1 $LLAMA_ARG_CORS_HEADERS;
    --cors-credentials ~--no-cors-credentials $LLAMA_ARG_CORS_CREDENTIALS; --api-prefix =1 $LLAMA_ARG_API_PREFIX;
    --ui-config --webui-config =1 $LLAMA_ARG_UI_CONFIG;
    --ui-config-file --webui-config-file =1 $LLAMA_ARG_UI_CONFIG_FILE;
    --ui-mcp-proxy --webui-mcp-proxy ~--no-ui-mcp-proxy ~--no-webui-mcp-proxy $LLAMA_ARG_UI_MCP_PROXY;
    --tools =1 $LLAMA_ARG_TOOLS; --tools-runtime =1 $LLAMA_ARG_TOOLS_RUNTIME;
    --mcp-servers-config =1 $LLAMA_ARG_MCP_SERVERS_CONFIG; --mcp-servers-json =1 $LLAMA_ARG_MCP_SERVERS_JSON;
    -ag --agent ~-no-ag ~--no-agent $LLAMA_ARG_AGENT; --ui --webui ~--no-ui ~--no-webui $LLAMA_ARG_UI;
    --api-key =1 $LLAMA_API_KEY; --api-key-file =1 $LLAMA_ARG_API_KEY_FILE;
    --ssl-key-file =1 $LLAMA_ARG_SSL_KEY_FILE; --ssl-cert-file =1 $LLAMA_ARG_SSL_CERT_FILE;
    --chat-template-kwargs =1 $LLAMA_ARG_CHAT_TEMPLATE_KWARGS; -to --timeout =1 $LLAMA_ARG_TIMEOUT;
    --sse-ping-interval =1 $LLAMA_ARG_SSE_PING_INTERVAL; --threads-http =1 $LLAMA_ARG_THREADS_HTTP;
    --cache-prompt ~--no-cache-prompt $LLAMA_ARG_CACHE_PROMPT; --cache-reuse =1 $LLAMA_ARG_CACHE_REUSE;
    --metrics $LLAMA_ARG_ENDPOINT_METRICS; --props $LLAMA_ARG_ENDPOINT_PROPS;
    --slots ~--no-slots $LLAMA_ARG_ENDPOINT_SLOTS; --slot-save-path =1; --media-path =1;
    --models-autoload ~--no-models-autoload $LLAMA_ARG_MODELS_AUTOLOAD; --jinja ~--no-jinja $LLAMA_ARG_JINJA;
    --reasoning-format =1 $LLAMA_ARG_THINK; -rea --reasoning =1 $LLAMA_ARG_REASONING;
    --reasoning-effort =1 $LLAMA_ARG_REASONING_EFFORT; --reasoning-budget =1 $LLAMA_ARG_THINK_BUDGET;
    --reasoning-budget-message =1 $LLAMA_ARG_THINK_BUDGET_MESSAGE;
    --reasoning-preserve ~--no-reasoning-preserve $LLAMA_ARG_REASONING_PRESERVE;
    --chat-template =1 $LLAMA_ARG_CHAT_TEMPLATE; --chat-template-file =1 $LLAMA_ARG_CHAT_TEMPLATE_FILE;
    --skip-chat-parsing ~--no-skip-chat-parsing $LLAMA_ARG_SKIP_CHAT_PARSING;
    --prefill-assistant ~--no-prefill-assistant $LLAMA_ARG_PREFILL_ASSISTANT; -sps --slot-prompt-similarity =1;
    --lora-init-without-apply; --sleep-idle-seconds =1; --log-disable; --log-file =1 $LLAMA_ARG_LOG_FILE;
    --log-jsonl ~--no-log-jsonl $LLAMA_ARG_LOG_JSONL; --log-prompts-dir =1; --log-colors =1 $LLAMA_ARG_LOG_COLORS;
    -v --verbose --log-verbose; --offline $LLAMA_ARG_OFFLINE;
    -lv --verbosity --log-verbosity =1 $LLAMA_ARG_LOG_VERBOSITY;
    --log-prefix ~--no-log-prefix $LLAMA_ARG_LOG_PREFIX;
    --log-timestamps ~--no-log-timestamps $LLAMA_ARG_LOG_TIMESTAMPS; --spec-draft-threads -td --threads-draft =1;
    --spec-draft-threads-batch -tbd --threads-batch-draft =1; --spec-draft-cpu-mask -Cd --cpu-mask-draft =1;
    --spec-draft-cpu-range -Crd --cpu-range-draft =1; --spec-draft-cpu-strict --cpu-strict-draft =1;
    --spec-draft-prio --prio-draft =1; --spec-draft-poll --poll-draft =1;
    --spec-draft-cpu-mask-batch -Cbd --cpu-mask-batch-draft =1;
    --spec-draft-cpu-strict-batch --cpu-strict-batch-draft =1; --spec-draft-prio-batch --prio-batch-draft =1;
    --spec-draft-poll-batch --poll-batch-draft =1; --spec-draft-n-min =1 $LLAMA_ARG_SPEC_DRAFT_N_MIN;
    --spec-synth-len =1 $LLAMA_ARG_SPEC_SYNTH_LEN; --spec-synth-rates =1 $LLAMA_ARG_SPEC_SYNTH_RATES;
    --spec-draft-p-split --draft-p-split =1 $LLAMA_ARG_SPEC_DRAFT_P_SPLIT;
    --spec-draft-p-min --draft-p-min =1 $LLAMA_ARG_SPEC_DRAFT_P_MIN; --spec-ngram-mod-n-min =1;
    --spec-ngram-mod-n-match =1; --spec-ngram-simple-size-n =1; --spec-ngram-simple-size-m =1;
    --spec-ngram-simple-min-hits =1; --spec-ngram-map-k-size-n =1; --spec-ngram-map-k-size-m =1;
    --spec-ngram-map-k-min-hits =1; --spec-ngram-map-k4v-size-n =1; --spec-ngram-map-k4v-size-m =1;
    --spec-ngram-map-k4v-min-hits =1; --draft-min --draft-n-min =1 $LLAMA_ARG_DRAFT_MIN; --spec-ngram-size-n =1;
    --spec-ngram-size-m =1; --spec-ngram-min-hits =1;
"""

# llama-server does not take these; llama-cli, llama-bench and the like do.
OTHER: Final = """
    --server-base =1; --verbose-prompt; --display-prompt ~--no-display-prompt; -co --color =1; --chunks =1;
    -sys --system-prompt =1; --show-timings ~--no-show-timings $LLAMA_ARG_SHOW_TIMINGS;
    -sysf --system-prompt-file =1; --in-file =1; -ptc --print-token-count =1; --prompt-cache =1; --prompt-cache-all;
    --prompt-cache-ro; -cnv --conversation ~-no-cnv ~--no-conversation; -st --single-turn; -i --interactive;
    -if --interactive-first; -mli --multiline-input; --in-prefix-bos; --in-prefix =1; --in-suffix =1;
    --attention =1; -gan --grp-attn-n =1 $LLAMA_ARG_GRP_ATTN_N; -gaw --grp-attn-w =1 $LLAMA_ARG_GRP_ATTN_W;
    --hellaswag; --hellaswag-tasks =1; --winogrande; --winogrande-tasks =1; --multiple-choice;
    --multiple-choice-tasks =1; --kl-divergence; --save-all-logits --kl-divergence-base =1; --ppl-stride =1;
    --ppl-output-type =1; -ns --sequences =1; --image --audio --video =1;
    -fitp --fit-print =1 $LLAMA_ARG_FIT_ESTIMATE; --mtp; --dflash; --eagle3; --context-file =1; --chunk-size =1;
    --chunk-separator =1; --junk =1; --pos =1; -o --output --output-file =1; -ofreq --output-frequency =1;
    --output-format =1; --save-frequency =1; --process-output; --ppl ~--no-ppl; --chunk --from-chunk =1;
    --show-statistics; --parse-special; --ids; --stdin; --no-bos; --no-parse-special; --show-count; -pps; -tgs;
    -npp =1; -ntg =1; -npl =1; --embd-output-format =1; --embd-separator =1; --cls-separator =1; --simple-io;
    --positive-file =1; --negative-file =1; --pca-batch =1; --pca-iter =1; --method =1; --output-format =1;
    --spec-draft-cpu-range-batch -Crbd --cpu-range-batch-draft =1; --tts-lang =1; --tts-speaker-file =1;
    --diffusion-steps =1; --diffusion-visual; --diffusion-eps =1; --diffusion-algorithm =1; --diffusion-alg-temp =1;
    --diffusion-block-length =1; --diffusion-cfg-scale =1; --diffusion-add-gumbel-noise =1; -lr --learning-rate =1;
    -lr-min --learning-rate-min =1; -decay-epochs --learning-rate-decay-epochs =1; -wd --weight-decay =1;
    -val-split --val-split =1; -epochs --epochs =1; -opt --optimizer =1; --check; --save-logits;
    --logits-output-dir =1; --tensor-filter =1;
"""
