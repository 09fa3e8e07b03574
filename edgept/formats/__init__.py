"""Readers of files that nobody vouches for: what may be in them, checked before anything is used.

Code organization:
    regular_file.py        open a file that is one, no link and no pipe, within a size
    reason.py              the names of the rules that a prompt file may break
    strict_json.py         JSON without duplicates, depth or numbers that readers differ on
    safetensors_strict.py  the safetensors container, on it
    npy_file.py            NumPy's .npy, without pickle
    stored_zip.py          a zip archive that compresses nothing
    tensor_pickle.py       the few pickle opcodes that a tensor checkpoint needs
    torch_checkpoint.py    torch.save's files, on these two
"""
