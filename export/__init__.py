"""The workstation side: from a transformers model to a bundle. Needs the extra `edgept[export]`.

Code organization (a model passes through these in order):
    source.py           find the model, its task and its frozen PyTorch module
    families/           what sets one family of encoders apart, a file each
    heads.py            the layers that a task ends in, which prompts bring their own of
    pooling.py          how a sentence's vector is made, from sentence-transformers' files
    fingerprint.py      what identifies the frozen model
    llm_builder.py      decoder-only models that onnxruntime-genai's builder knows
    torch_exporter.py   every other decoder-only model, through torch.onnx
    encoder_exporter.py     encoders for all their tasks, the head an input too
    decoder_classifier.py   decoder-only models that classify; tracing.py torch.onnx itself
    seq2seq_exporter.py     encoder-decoders, two graphs; generation_rules.py their generation_config
    vision_exporter.py  image models, of prompted_vision.py; image_preprocessor.py how pictures become numbers
    class_prompt.py     a prompt of the names of classes; class_head.py the head that a text tower makes of them
    build.py            which of these makes a model's graphs
    graph.py            what both graphs get: virtual tokens, logits_to_keep, metadata
    attention_layout.py     attention with its heads side by side, of encoders and image models
    describe.py         what the manifest says of it all
    tokenizer_files.py  what is kept of the tokenizer; tokenizer_table.py for the C library
    genai_config.py     what a stock onnxruntime-genai program reads
    weights.py          what becomes of the weights; kept_modules.py which of them stay float
    quantize.py         int4 and int8 weights for graphs from torch.onnx
    parity.py           PyTorch against the bundle, figure by figure: generation_parity.py, and
                        seq2seq_parity.py; forward_parity.py where nothing is generated, vision_parity.py for
                        pictures; collected by tally.py.
                        data_parity.py for the metric over the user's rows
    chatter.py          their messages, to a log
    exporter.py         `edgept export`: all of the above, then one rename
    verifier.py         `edgept verify`: parity on demand, with peft itself as the reference;
                        seq2seq_verifier.py for encoder-decoders

A new family of encoders is a new file in families/, named in families/__init__.py, and a tiny model of
it in tests/conftest.py, which every task is then tried on.
"""

from edgept.export.exporter import export_model
from edgept.export.verifier import verify_bundle

__all__ = ["export_model", "verify_bundle"]
