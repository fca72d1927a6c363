#!/bin/sh
# What runs on this machine: a coder with a draft, and eyes.
MODELS=examples

CUDA_VISIBLE_DEVICES=0 nohup llama-server -m $MODELS/qwen2.5-14b-instruct-1m-q8_0.gguf --alias coder \
    -md $MODELS/beside/qwen2.5-0.5b-instruct-q4_k_m.gguf --spec-type draft-simple \
    -c 16k -fa on --port 8080 > coder.log 2>&1 &

exec llama-server -m $MODELS/gemma-3-12b-q4_k_m.gguf --mmproj $MODELS/beside/mmproj-gemma-3-12b-f16.gguf \
    --alias eyes -np 1 --port 8081
