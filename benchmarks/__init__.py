"""Measurements, one script a claim; `python -m benchmarks` runs them and writes RESULTS.md.

Code organization:
    decode, prefill, swap, batch, cold_start, memory, encoders, ceilings   a claim each
    first_table      the README's table
    c_runtime        the C library: from start to ready, memory, size, time per token beside Python
    fidelity         every family, task and method against peft (FIDELITY.md); it times nothing
    ├── families     tiny models with random weights
    ├── adapters     peft's adapters of every method
    ├── exactness    one combination: logits, tokens, padding
    └── quantised    what fewer bits cost
    claim            what a script finds: tables, goals; and the options that all have
    peers            each side of a comparison in a process of its own
    disturbance      how much of the machine other programs took meanwhile
    runtimes/        edgept and its peers behind the same few calls
    files            where models, bundles and prompts lie, and who makes them
    ├── models       random weights of real shapes, peft's prompts
    └── gguf_files   the same for llama.cpp
    methods/         what prompt learning is worth beside other methods (METHODS.md)
"""
