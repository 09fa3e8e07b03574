"""`edgept bench`: latency measured so that it can be believed.

Requests go through the public runtime. One thing is done to it: before each, cache buffers forget the
prompt that they begin with, so that every swap is a copy, as among more prompts than there are buffers;
swaps to recent prompts, which cost nothing, are a line of their own.

Code organization:
    plan             what is measured, and how long
    measurement      all of it, in order, into a report
    ├── process_start, first_token   a process of its own, to its first token
    ├── prompts      those given, random ones, copies for many residents
    ├── question     a request of the wanted length
    ├── loop         requests one after the other, or on a Poisson schedule
    │   ├── steady            warm-up, drift
    │   ├── reference_kernel  throttling
    │   └── power             energy, where the device tells
    ├── residents    swap time against the number of resident prompts, and to recent ones
    ├── answers      whether what comes out is right
    ├── ceilings     what this machine's memory and arithmetic allow
    └── conditions   clocks, temperature, load
    comparison       this against another report, interleaved where it can be
    ├── ratio        with the interval that allows or forbids to call it a difference
    └── statistics   percentiles, outliers
    report           what goes to JSON, and back
    html, svg        one self-contained page
    pictures         the same, shorter, of a bundle that looks at pictures

`edgept.cli.bench` is the command.
"""

__all__: list[str] = []
