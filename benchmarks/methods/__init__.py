"""What prompt learning is worth: every way of giving a frozen model its task, measured side by side.

text.py      the demo's model answers in German
labels.py    a real encoder names the intent of banking77's questions
weights.py   LoRA and full fine-tuning, the two that change weights
row.py       what is measured of a method
__main__.py  runs each method in a process of its own and writes METHODS.md
"""
