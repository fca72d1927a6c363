"""What libllama does before a graph: parameters, architectures, placement, caches, file types.

Modules are named as the files of llama.cpp/src that they follow.
"""
