"""`edgept run` as a user meets it: streams, exit codes, the interactive session, bad command lines."""

import contextlib
import dataclasses
import errno
import json
import os
import pty
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgept
from edgept.bundle import MANIFEST_NAME, hash_file, read_manifest
from edgept.cli import main
from edgept.cli.session import converse
from edgept.export import export_model
from edgept.manifest import BundleFile
from edgept.runtime.generation import GenerationStream
from tests.conftest import shared, tiny_model, tiny_tokenizer

TEXT = "where is my parcel"
TEMPLATE = "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def bundle(bundle_of: Callable[..., Path]) -> Path:
    return bundle_of("llama")


@pytest.fixture(scope="module")
def model(bundle: Path) -> edgept.Model:
    return edgept.load(bundle, threads=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two prompts, spanish.npy and german.npy."""
    folder: Path = tmp_path_factory.mktemp("prompts")
    for seed, name in enumerate(("spanish", "german")):
        rows = np.random.default_rng(seed).normal(size=(5, 64)).astype(np.float32)
        np.save(folder / f"{name}.npy", rows)
    return folder


@pytest.fixture(scope="module")
def chat_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("chat") / "bundle"
    shutil.copytree(bundle, folder)
    template = folder / "chat_template.jinja"
    template.write_text(TEMPLATE)
    manifest = read_manifest(folder)
    listed = {template.name: BundleFile(template.stat().st_size, hash_file(template))}
    manifest = dataclasses.replace(manifest, files={**manifest.files, **listed})
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return folder


def edgept_main(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def run(bundle: Path, *arguments: object, stdin: str | bytes | None = None) -> Result:
    return edgept_main("run", "-b", bundle, "--threads", 1, "-n", 12, *arguments, stdin=stdin)


def answer(model: edgept.Model, text: str, prompt: Path | None = None, **options: Any) -> str:
    loaded = None if prompt is None else model.load_prompt(prompt)
    return model.generate(text, prompt=loaded, **{"max_new_tokens": 12, **options}).text


# What it prints


def test_text_on_stdout_latency_on_stderr(bundle: Path, model: edgept.Model, files: Path) -> None:
    result = run(bundle, "--prompt", files / "spanish.npy", TEXT)
    assert result.exit_code == 0
    assert result.stdout == answer(model, TEXT, files / "spanish.npy") + "\n"
    (line,) = result.stderr.splitlines()
    assert "(5 virtual + " in line
    assert "ms/token" in line
    plain = run(bundle, TEXT)
    assert plain.stdout == answer(model, TEXT) + "\n" != result.stdout
    assert "(0 virtual + " in plain.stderr


def test_a_file_with_a_request_on_every_line(
    bundle: Path, model: edgept.Model, tmp_path: Path
) -> None:
    lines = [TEXT, "and when will it come", "ünï 😀"]
    (tmp_path / "questions.txt").write_bytes("\r\n\n".join([*lines, "  \n"]).encode())
    expected = "".join(answer(model, line) + "\n" for line in lines)
    for result in (
        run(bundle, "--input", tmp_path / "questions.txt"),
        run(bundle, "--input", "-", stdin=(tmp_path / "questions.txt").read_bytes()),
    ):
        assert result.exit_code == 0
        assert result.stdout == expected
        assert len(result.stderr.splitlines()) == 3


def test_stdin_is_one_request(bundle: Path, model: edgept.Model) -> None:
    text = "where is\nmy parcel"
    result = run(bundle, stdin=text + "\r\n")
    assert result.stdout == answer(model, text) + "\n"
    broken = run(bundle, stdin=b"where \xff\xfe is")
    assert broken.exit_code == 0
    assert broken.stdout == answer(model, "where \ufffd\ufffd is") + "\n"
    for empty in ("", " \n\n"):
        nothing = run(bundle, stdin=empty)
        assert nothing.exit_code == 2
        assert "stdin is empty" in nothing.stderr


def test_several_prompts_give_several_answers(
    bundle: Path, model: edgept.Model, files: Path
) -> None:
    spanish, german = files / "spanish.npy", files / "german.npy"
    result = run(bundle, "--prompt", spanish, "--prompt", f"de={german}", TEXT)
    expected = [f"spanish: {answer(model, TEXT, spanish)}", f"de: {answer(model, TEXT, german)}"]
    assert result.stdout == "\n".join(expected) + "\n"
    assert len(result.stderr.splitlines()) == 2


def test_json_is_an_object_a_line(
    bundle: Path, model: edgept.Model, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "questions.txt").write_text("where is\nmy parcel\n")
    prompts = ["--prompt", files / "spanish.npy", "--prompt", f"b={files / 'german.npy'}"]
    result = run(bundle, "--json", "--input", tmp_path / "questions.txt", *prompts)
    assert result.stderr == ""
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["input"], row["prompt"]) for row in rows] == [
        ("where is", "spanish"),
        ("where is", "b"),
        ("my parcel", "spanish"),
        ("my parcel", "b"),
    ]
    prompt = model.load_prompt(files / "german.npy")
    expected = model.generate("my parcel", prompt=prompt, max_new_tokens=12)
    assert rows[3]["text"] == expected.text
    assert rows[3]["token_ids"] == expected.token_ids
    assert rows[3]["finish_reason"] == "length"
    latency = rows[3]["latency"]
    assert latency["new_tokens"] == 12
    assert latency["tokens_per_second"] == pytest.approx(1e3 / latency["tpot_ms"])
    fields = {field.name for field in dataclasses.fields(edgept.Latency)}
    assert set(latency) == fields | {"tokens_per_second"}
    (plain,) = [json.loads(line) for line in run(bundle, "--json", TEXT).stdout.splitlines()]
    assert plain["prompt"] is None


def test_options_reach_the_model(bundle: Path, model: edgept.Model) -> None:
    flags = ["--temperature", 0.9, "--top-k", 40, "--top-p", 0.9, "--repetition-penalty", 1.2]
    result = run(bundle, *flags, "--seed", 5, "--json", TEXT)
    expected = model.generate(
        TEXT,
        max_new_tokens=12,
        temperature=0.9,
        top_k=40,
        top_p=0.9,
        repetition_penalty=1.2,
        seed=5,
    )
    assert json.loads(result.stdout)["token_ids"] == expected.token_ids
    whole = answer(model, TEXT)
    stop = whole[len(whole) // 2]
    stopped = json.loads(run(bundle, "--stop", "\x00", "--stop", stop, "--json", TEXT).stdout)
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == whole[: whole.index(stop)]
    ids = model._compose(TEXT, None).length
    full = run(bundle, "--max-length", ids + 2, TEXT)
    assert "sequence full" in full.stderr
    assert run(bundle, "--provider", "CPUExecutionProvider", TEXT).stdout == whole + "\n"


def test_chat_wraps_the_text(chat_bundle: Path, bundle: Path) -> None:
    chat = edgept.load(chat_bundle, threads=1)
    user = {"role": "user", "content": TEXT}
    expected = chat.generate(chat.chat([user]), max_new_tokens=12).text
    assert run(chat_bundle, "--chat", TEXT).stdout == expected + "\n"
    system = {"role": "system", "content": "be kind"}
    with_system = chat.generate(chat.chat([system, user]), max_new_tokens=12).text
    result = run(chat_bundle, "--chat", "--system", "be kind", TEXT)
    assert result.stdout == with_system + "\n"
    without = run(bundle, "--chat", TEXT)
    assert without.exit_code == 2
    assert "no chat template" in without.stderr
    assert run(chat_bundle, "--system", "be kind", TEXT).exit_code == 2


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after three tokens of every answer."""
    real = GenerationStream.__next__

    def interrupt(stream: GenerationStream) -> str:
        if len(stream._row.token_ids) > 3:
            raise KeyboardInterrupt
        return real(stream)

    monkeypatch.setattr(GenerationStream, "__next__", interrupt)


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_ends_the_program(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text("where is\nmy parcel\n")
    result = run(bundle, "--input", tmp_path / "questions.txt")
    assert result.exit_code == 1
    assert "Aborted" in result.stderr
    assert "ms/token" not in result.stderr


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_ends_an_answer_of_a_session(
    model: edgept.Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter([TEXT, "/prompts", TEXT, "/quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    converse(model, {}, lambda text: text, {"max_new_tokens": 9})
    assert capsys.readouterr().err.count("(cancelled)") == 2
    assert list(lines) == []


# Where things are


def test_names_of_prompts(bundle: Path, files: Path, tmp_path: Path) -> None:
    spanish = files / "spanish.npy"
    twice = run(bundle, "--prompt", spanish, "--prompt", spanish, TEXT)
    assert twice.exit_code == 2
    assert "two prompts are called 'spanish'" in twice.stderr
    named = run(bundle, "--prompt", f"a={spanish}", "--prompt", f"b={spanish}", TEXT)
    first, second = named.stdout.splitlines()[0], named.stdout.splitlines()[-1]
    assert first.startswith("a: ")
    assert second.startswith("b: ") or "b: " in named.stdout
    odd = tmp_path / "a=b.npy"
    shutil.copy(spanish, odd)
    assert json.loads(run(bundle, "--prompt", odd, "--json", TEXT).stdout)["prompt"] == "a=b"


def test_bundle_of_the_environment_and_of_the_folder(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEPT_BUNDLE", raising=False)
    nowhere = edgept_main("run", TEXT)
    assert nowhere.exit_code == 2
    assert "no bundle at bundle (nothing there)" in nowhere.stderr
    assert "edgept export" in nowhere.stderr
    monkeypatch.setenv("EDGEPT_BUNDLE", str(bundle))
    expected = edgept_main("run", "-n", 4, TEXT)
    assert expected.exit_code == 0
    monkeypatch.delenv("EDGEPT_BUNDLE")
    shutil.copytree(bundle, tmp_path / "bundle")
    assert edgept_main("run", "-n", 4, TEXT).stdout == expected.stdout
    monkeypatch.setenv("EDGEPT_BUNDLE", str(tmp_path / "elsewhere"))
    assert edgept_main("run", "-n", 4, TEXT).exit_code == 2
    assert run(bundle, TEXT).exit_code == 0  # -b goes first


# Exit codes


def test_exit_code_1_when_a_file_fails(bundle: Path) -> None:
    if not Path("/proc/self/mem").exists():
        pytest.skip("needs /proc/self/mem, a file that cannot be read from its start")
    result = run(bundle, "--input", "/proc/self/mem")
    assert (result.exit_code, result.stdout) == (1, "")
    assert os.strerror(errno.EIO) in result.stderr


def test_exit_code_2_for_what_is_asked(bundle: Path, files: Path) -> None:
    for arguments in (
        ["--input", "x", TEXT],
        ["--input", "/nowhere"],
        ["--prompt", files / "nothing.pt", TEXT],
        ["--prompt", files, TEXT],
        ["--task-index", 0, "--prompt", files / "spanish.npy", TEXT],
        ["--temperature", "nan", TEXT],
        ["--threads", 10**12, TEXT],
        ["--max-length", 10**6, TEXT],
        ["--provider", "ToasterExecutionProvider", TEXT],
        ["--stop", "", TEXT],
        [""],
        ["a" * 5000],
    ):
        result = run(bundle, *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert result.stdout == ""


def test_exit_code_2_for_a_file_that_is_no_text(bundle: Path, tmp_path: Path) -> None:
    """A model's weights have no lines: they are not read into memory as one."""
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(1 << 34)
    result = run(bundle, "--input", tmp_path / "weights")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Is it a text?" in result.stderr


def test_exit_code_3_for_a_malformed_prompt(bundle: Path, tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pt", "a.npy", "a.bin"):
        (tmp_path / name).write_bytes(b"{" * 64)
        result = run(bundle, "--prompt", tmp_path / name, TEXT)
        assert (result.exit_code, result.stdout) == (3, ""), result.output


def test_exit_code_4_for_a_prompt_of_another_size(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.ones((4, 65), np.float32))
    result = run(bundle, "--prompt", tmp_path / "wide.npy", TEXT)
    assert (result.exit_code, result.stdout) == (4, "")


def test_exit_code_4_for_a_prompt_of_another_model_of_equal_shape(
    bundle: Path, files: Path, tmp_path: Path
) -> None:
    import torch

    other = tiny_model("llama")
    torch.manual_seed(99)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    other.save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    export_model(str(tmp_path / "other"), tmp_path / "b", precision="fp32", verify=False)
    packed = tmp_path / "spanish.safetensors"
    pack = ["prompt", "pack", files / "spanish.npy", "-b", bundle, "-o", packed]
    assert edgept_main(*pack).exit_code == 0
    assert run(bundle, "--prompt", packed, TEXT).exit_code == 0
    result = run(tmp_path / "b", "--prompt", packed, TEXT)
    assert (result.exit_code, result.stdout) == (4, "")
    assert "made for another model" in result.stderr
    # the bare rows say nothing of a model: they are taken
    assert run(tmp_path / "b", "--prompt", files / "spanish.npy", TEXT).exit_code == 0


def test_exit_code_5_for_a_changed_bundle(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    weights = tmp_path / "b" / "model.onnx.data"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    result = run(tmp_path / "b", TEXT)
    assert (result.exit_code, result.stdout) == (5, "")
    assert "is not the file that was exported" in result.stderr


def test_real_adapter_of_another_model(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    adapter = shared("bloomz-560m-prompt-adapter")
    inspected = edgept_main("prompt", "inspect", adapter, "--json")
    assert inspected.exit_code == 0
    said = json.loads(inspected.stdout)
    assert said["tensors"]["prompt_embeds"]["shape"] == [8, 1024]
    assert "bloomz-560m" in said["base_model"]
    stories = bundle_of("stories260K")
    for source in (adapter, adapter / "adapter_model.bin"):
        assert run(stories, "--prompt", source, TEXT).exit_code == 4
        packing = edgept_main("prompt", "pack", source, "-b", stories, "-o", tmp_path / "p")
        assert packing.exit_code == 4
    assert list(tmp_path.iterdir()) == []


# As a process of its own


def process(
    bundle: Path,
    *arguments: object,
    shell: str = "",
    stdin: bytes | None = None,
    **environment: str,
) -> "subprocess.CompletedProcess[bytes]":
    """Run the command through a shell that arranges its streams."""
    command = [sys.executable, "-m", "edgept", "run", "-b", bundle, "-n", 8, *arguments]
    return subprocess.run(
        ["/bin/sh", "-c", f'"$@" {shell}', "sh", *map(str, command)],
        input=stdin,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("shell", "code", "words"),
    [
        ("<&-", 2, b"stdin is closed"),
        (">&-", 2, b"stdin is empty"),
        ("</dev/null >/dev/full", 2, b"stdin is empty"),
    ],
)
def test_streams_that_are_not_there(shell: str, code: int, words: bytes, bundle: Path) -> None:
    done = process(bundle, shell=shell, stdin=None if "<" in shell else b"")
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert b"Traceback" not in done.stderr


def test_stdout_that_takes_nothing(bundle: Path) -> None:
    closed = process(bundle, TEXT, shell=">&-")
    assert closed.returncode == 0, closed.stderr
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    full = process(bundle, TEXT, shell=">/dev/full")
    assert full.returncode == 1
    assert os.strerror(errno.ENOSPC).encode() in full.stderr
    assert b"Traceback" not in full.stderr
    assert b"Exception ignored" not in full.stderr


def test_reader_that_goes_away(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text(f"{TEXT}\n" * 400)
    command = [sys.executable, "-m", "edgept", "run", "-b", bundle, "-n", "4", "--json"]
    with subprocess.Popen(
        [*map(str, command), "--input", str(tmp_path / "questions.txt")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith(b'{"input"')
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 1


def test_names_that_the_encoding_lacks(bundle: Path, files: Path) -> None:
    spanish = files / "spanish.npy"
    names = [f"日本={spanish}", f"{os.fsdecode(b'caf')}\udce9={spanish}"]
    prompts = [argument for name in names for argument in ("--prompt", name)]
    for encoding in ("latin-1", "utf-8:strict"):
        done = process(bundle, *prompts, TEXT, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert b"\\udce9: " in done.stdout
        objects = process(bundle, "--json", *prompts, TEXT, PYTHONIOENCODING=encoding)
        lines = objects.stdout.decode(encoding.split(":")[0]).splitlines()
        assert [json.loads(line)["prompt"] for line in lines] == ["日本", "caf\udce9"]


# The interactive session


def _listen_to_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminal:
    """An `edgept run` at a terminal of its own."""

    def __init__(self, *arguments: object, stdout: int | None = None) -> None:
        self._end, device = pty.openpty()
        command = [sys.executable, "-m", "edgept", "run", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdin=device,
            stdout=device if stdout is None else stdout,
            stderr=device,
            env={**os.environ, "TERM": "dumb", "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            start_new_session=True,
            # what runs the tests in the background may ignore Ctrl-C, and children would inherit that
            preexec_fn=_listen_to_interrupts,
        )
        os.close(device)

    def type(self, line: str | bytes) -> None:
        os.write(self._end, (line.encode() if isinstance(line, str) else line) + b"\n")

    def until(self, words: str, seconds: float = 60) -> str:
        """What is shown up to and with some words."""
        shown = b""
        deadline = time.monotonic() + seconds
        while words.encode() not in shown and time.monotonic() < deadline:
            if select.select([self._end], [], [], 0.1)[0]:
                try:
                    shown += os.read(self._end, 1 << 16)
                except OSError:  # the other side has gone
                    break
        text = shown.decode(errors="replace").replace("\r\n", "\n")
        assert words in text, text
        return text

    def interrupt(self, words: str) -> str:
        """Ctrl-C until it is noticed: one that comes just before Python waits for a key is not."""
        for _ in range(30):
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(AssertionError):
                return self.until(words, 1)
        raise AssertionError(f"no {words!r} after Ctrl-C")

    def leave(self) -> int:
        """Ctrl-D; the exit code."""
        os.write(self._end, b"\x04")
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self._end)


@contextlib.contextmanager
def terminal(*arguments: object, **streams: int) -> Iterator[Terminal]:
    opened = Terminal(*arguments, **streams)
    try:
        yield opened
    finally:
        opened.close()


def test_session(bundle: Path, model: edgept.Model, files: Path) -> None:
    spanish, german = files / "spanish.npy", files / "german.npy"
    options = ["-b", bundle, "-n", 6, "--threads", 1]

    def said(prompt: Path | None) -> str:
        text = answer(model, TEXT, prompt, max_new_tokens=6)
        return text.replace("\r\n", "\n").replace("\r", "")

    with terminal(*options, "--prompt", spanish, "--prompt", f"de={german}") as session:
        assert "llama, fp32. /help" in session.until("spanish> ")
        session.type(TEXT)
        assert said(spanish) in session.until("spanish> ").replace("\r", "")
        session.type("/prompt de")
        session.until("de> ")
        session.type(TEXT)
        assert said(german) in session.until("de> ").replace("\r", "")
        session.type("/prompts")
        shown = session.until("de> ")
        assert "  spanish  5 virtual tokens" in shown
        assert "* de  5 virtual tokens" in shown
        session.type("/prompt none")
        session.until("no prompt> ")
        session.type(TEXT)
        assert said(None) in session.until("no prompt> ").replace("\r", "")
        session.type("/prompt")
        assert "active: none; loaded: spanish, de" in session.until("no prompt> ")
        session.type(f"/prompt {german}")  # a file becomes one more prompt
        session.until("german> ")
        session.type("/help")
        assert "/quit" in session.until("german> ")
        assert session.leave() == 0


def test_session_outlives_errors(bundle: Path, files: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 nothing")
    np.save(tmp_path / "wide.npy", np.ones((4, 65), np.float32))
    with terminal("-b", bundle, "-n", 4, "--prompt", f"a={files / 'spanish.npy'}") as session:
        session.until("a> ")
        for typed, words in (
            ("/prompt nowhere.pt", "error: "),
            (f"/prompt {tmp_path / 'broken.pt'}", "error: "),
            (f"/prompt {tmp_path / 'wide.npy'}", "error: "),
            (f"/prompt {tmp_path}", "error: "),
            ("/swap spanish", "no command /swap"),
            ("x" * 1500, "error: the request takes"),
        ):
            session.type(typed)
            assert words in session.until("\na> "), typed
        session.type(b"\xff\xfe \xe2\x82")  # not the terminal's encoding
        session.until("\na> ")
        session.type("")
        session.until("a> ")
        session.interrupt("/quit to leave")
        session.type(TEXT)
        session.until("ms]")
        session.type("/quit")
        assert session.process.wait(30) == 0


def test_session_writes_answers_alone_to_a_file(bundle: Path, model: edgept.Model) -> None:
    with terminal("-b", bundle, "-n", 6, "--threads", 1, stdout=subprocess.PIPE) as session:
        session.until("no prompt> ")
        session.type(TEXT)
        session.until("no prompt> ")
        assert session.leave() == 0
        assert session.process.stdout is not None
        written = session.process.stdout.read().decode()
    assert written == answer(model, TEXT, max_new_tokens=6) + "\n"


# Bad command lines


def wrong_files(folder: Path, bundle: Path) -> list[str]:
    """Paths of which none is a prompt, a bundle or a model."""
    (folder / "empty").write_bytes(b"")
    for suffix in (".safetensors", ".pt", ".bin", ".npy", ".onnx_adapter", ".json", ""):
        (folder / f"noise{suffix}").write_bytes(random.Random(suffix).randbytes(300))
        (folder / f"text{suffix}").write_text('{"peft_type": "PROMPT_TUNING"}')
        (folder / f"empty{suffix}").write_bytes(b"")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("[]")
    (folder / "half").mkdir()
    (folder / "half" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "llama", "hidden_size": -3}')
    (folder / "bundle").mkdir()
    (folder / "bundle" / MANIFEST_NAME).write_text('{"format_version": 1}')
    with (folder / "huge.safetensors").open("wb") as file:
        file.truncate(1 << 34)
    (folder / "loop.pt").symlink_to("loop.pt")
    (folder / "link.npy").symlink_to(folder / "noise.npy")
    (folder / "fifo.pt").unlink(missing_ok=True)
    os.mkfifo(folder / "fifo.pt")
    made = [str(path) for path in folder.iterdir()]
    strange = [
        "",
        ".",
        "/",
        "..",
        "=",
        "a=",
        "=a",
        "a=b=c",
        "-",
        "\udcff.pt",
        "nothing.pt",
        "x" * 300,
        "x" * 300 + "=y",
        "/dev/null",
        "/proc/self/mem",
        f"{folder}/empty/below",
        str(bundle / "model.onnx"),
        str(bundle / "tokenizer.json"),
        str(bundle / MANIFEST_NAME),
    ]
    return [*made, *strange]


NUMBERS = ["-1", "0", "1", "abc", "", "1e3", "nan", "inf", "-inf", str(10**12), str(10**40), "1e-9"]
NUMERIC = [
    "--task-index",
    "-n",
    "--temperature",
    "--top-k",
    "--top-p",
    "--repetition-penalty",
    "--seed",
    "--threads",
    "--max-length",
]


def bad_lines(files: list[str], bundle: Path, count: int) -> Iterator[list[str]]:
    """Command lines with a wrong file or a wrong number in them; a few may happen to be right."""
    chance = random.Random(7)
    regular = [path for path in files if not path.endswith("fifo.pt")]  # reading one waits, rightly
    short = ["-b", str(bundle), "-n", "1"]
    for _ in range(count):
        wrong, flag = chance.choice(files), chance.choice(NUMERIC)
        number = chance.choice(NUMBERS)
        yield chance.choice(
            [
                ["run", *short, "--prompt", wrong, TEXT],
                ["run", *short, flag, number, TEXT],
                ["run", *short, flag, number, "--prompt", wrong, TEXT],
                ["run", "-b", wrong, TEXT],
                ["run", *short, "--input", chance.choice(regular)],
                ["run", *short, "--input", chance.choice(regular), "--chat", "--json"],
                ["run", *short, wrong],
                ["run", *short, "--provider", wrong, TEXT],
                ["run", *short, "--stop", wrong, "--no-such-flag", TEXT],
                ["prompt", "inspect", wrong],
                ["prompt", "inspect", wrong, "--bundles", chance.choice(files), "--json"],
                ["prompt", "pack", wrong, "-b", str(bundle), "-o", chance.choice(regular)],
                ["prompt", "pack", wrong, "-b", chance.choice(files), "-o", "/nowhere/out"],
                ["prompt", "export", wrong, "--format", "peft", "-o", chance.choice(regular)],
                ["prompt", "export", wrong, "--format", "onnx-adapter", "-o", "/nowhere/out"],
                ["export", f"/nowhere/{wrong}/x", "-o", "/nowhere/out"],
                ["export", wrong, "-o", chance.choice(regular), flag, number],
                ["verify", "-b", wrong, "--model", "/nowhere/at/all"],
                ["doctor", "-b", wrong],
                [chance.choice(["run", "prompt", "verify", "export", "nothing"]), flag, number],
            ]
        )


def test_300_bad_command_lines_end_without_a_traceback(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "wrong"
    folder.mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("EDGEPT_BUNDLE", raising=False)
    codes = []
    for line in bad_lines(wrong_files(folder, bundle), bundle, 300):
        result = CliRunner().invoke(main, line, input="")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError(line) from result.exception
        assert result.exit_code in range(6), line
        assert "Traceback" not in result.output, line
        if result.exit_code:
            # of a file of requests, those before the bad one are answered
            assert result.stdout == "" or "--input" in line, line
            assert len(result.stderr) > 20, line
        codes.append(result.exit_code)
    assert {0, 2, 3} <= set(codes)
    assert codes.count(0) < 60
