"""`edgept bench`: latency measured so that it can be believed, of texts and of pictures.

Requests go through the public runtime. One thing is done to it: before each text, cache buffers forget
the prompt that they begin with, so that every swap is a copy, as among more prompts than there are
buffers; swaps to recent prompts, which cost nothing, are a line of their own.

Code organization:
    plan             what is measured, and how long
    measurement      all of it, in order, into a report
    ├── subject      what a request is, whatever its kind
    │   ├── texts, question     a request of the wanted length, token by token
    │   └── pictures, picture, sightings   a file in memory, and what is found in it
    ├── prompts      those given, random ones, copies for many residents
    ├── once         what happens once for a session, a prompt, a process
    │   └── process_start, first_answer   a process of its own, to its first answer
    ├── requests, loop   requests one after the other, or on a Poisson schedule
    │   ├── steady            warm-up, drift
    │   ├── reference_kernel  throttling
    │   └── power             energy, where the device tells
    ├── residents    swap time against the number of resident prompts, and to recent ones
    ├── answers      whether what comes out is right
    ├── ceilings     what this machine's memory and arithmetic allow
    └── conditions   clocks, temperature, load
    comparison       this against another report, interleaved where it can be
    ├── earlier, rival   the other report, and its side ready to run again
    ├── ratio        with the interval that allows or forbids to call it a difference
    └── statistics   percentiles, outliers
    report           what goes to JSON, and back
    html, svg        one self-contained page

`edgept.cli.bench` is the command.
"""

__all__: list[str] = []
