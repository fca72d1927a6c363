"""What ggml does, without a model: types, graphs, backends, the scheduler, the graph allocator.

Modules are named as the files of ggml/src that they replay: `sched` is ggml-backend.cpp, `galloc` ggml-alloc.c.
"""
