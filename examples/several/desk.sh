#!/bin/sh
# A coder with a draft, and an embedder.
llama-server -m examples/qwen2.5-14b-instruct-1m-q8_0.gguf --alias coder -fa on -np 1 \
    -md examples/beside/qwen2.5-0.5b-instruct-q4_k_m.gguf --spec-type draft-simple --port 8080 &
llama-server -m examples/several/nomic-embed-text-v1.5.gguf --alias embedder --embeddings -c 2048 -np 1 --port 8081
