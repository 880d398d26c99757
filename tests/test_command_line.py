"""What the commands of both programs share: help pages, examples, options anywhere on the line,
suggestions, completion, `python -m`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import histoprep.cli
import trainer.cli
from histoprep import console
from histoprep.command_style import EXAMPLES, GLOBAL_OPTIONS, Group, closest, split_examples
from histoprep.errors import ExitCode
from histoprep.exporting.formats import FORMATS as EXPORTS
from histoprep.importing.formats import FORMATS
from histoprep.labels import find_label_map
from trainer.config_layers import presets

ROOT = Path(__file__).parents[1]
PROGRAMS = {"histoprep": histoprep.cli._LINE, "trainer": trainer.cli._LINE}


def pages() -> Iterator[tuple[str, Any, Any]]:
    """Every command line that has a help page, with its command and context."""
    for program, line in PROGRAMS.items():
        root = line._command()
        yield from _below(program, root, root.make_context(program, [], resilient_parsing=True))


def _below(path: str, command: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    yield path, command, context
    if isinstance(command, Group):
        for name in command.list_commands(context):
            under = command.get_command(context, name)
            yield from _below(
                f"{path} {name}", under, under.context_class(under, info_name=name, parent=context)
            )


PAGES = {path: (command, context) for path, command, context in pages()}


def parse(words: list[str]) -> Any:
    """Return the context of the command that `words` call, parsed as a user's line is; nothing is
    run.
    """
    command = PROGRAMS[words[0]]._command()
    context = command.make_context(words[0], words[1:], obj={})
    while isinstance(command, Group):
        name, command, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        context = command.make_context(name, rest, parent=context)
    return context


def run(line: str, capsys: pytest.CaptureFixture[str], **more: Any) -> tuple[int, str, str]:
    program, *arguments = shlex.split(line)
    code = PROGRAMS[program].run(arguments, **more)
    return code, *capsys.readouterr()


def test_all_commands_of_both_programs_have_a_page() -> None:
    assert {
        "histoprep audit",
        "histoprep manifest build",
        "histoprep shard preview",
        "histoprep map compose",
        "trainer import",
    } <= set(PAGES)
    commands = sum(len(line.commands) for line in PROGRAMS.values())
    assert len(PAGES) == 2 + commands + 4 + 5 + 4 + len(FORMATS) + len(EXPORTS)


@pytest.mark.parametrize("path", PAGES)
class TestPages:
    def test_has_the_sections_of_all_pages_in_one_order(self, path: str) -> None:
        command, context = PAGES[path]
        page = command.get_help(context)
        titles = re.findall(r"^(\S.*):$", page, re.MULTILINE)
        assert page.startswith(f"Usage: {path} [OPTIONS]")
        assert GLOBAL_OPTIONS in titles
        assert titles[-1] == "Examples"
        for option in ("-q, --quiet", "--debug", "--version", "--help"):
            assert page.count(f"\n  {option} ") == 1

    def test_shows_words_for_types(self, path: str) -> None:
        page = PAGES[path][0].get_help(PAGES[path][1]).partition(EXAMPLES)[0]
        assert not re.search(
            r"<|list\[|\bbool\b|\bstr\b|\bint\b|\bfloat\b|\bRANGE\b|╭|None|default: \(", page
        )
        sections = re.split(r"^\S.*:$", page, maxsplit=1, flags=re.MULTILINE)[1]
        for name, word in re.findall(
            r"^  (?:-\w, )?(--[\w-]+)(?: (\S+))?(?:  |$)", sections, re.MULTILINE
        ):
            choices = re.fullmatch(r"[a-z0-9+_-]+(\|[a-z0-9+_-]+)+", word)
            assert (
                not word or choices or word == "i/n" or re.fullmatch(r"[A-Z]+([=x,][A-Z]+)*", word)
            ), f"{name} {word}"

    def test_lines_of_prose_are_not_wider_than_the_page(self, path: str) -> None:
        page = PAGES[path][0].get_help(PAGES[path][1]).partition(f"\n{EXAMPLES}")[0]
        assert max(map(len, page.splitlines())) <= 80

    def test_has_one_to_three_examples_that_parse(self, path: str) -> None:
        examples = split_examples(PAGES[path][0].help)[1]
        assert 1 <= len(examples) <= 3
        for example in examples:
            assert example.startswith(path.split(maxsplit=1)[0])
            words = shlex.split(example)
            if words[-1] == "--help":
                assert " ".join(words[:-1]) in PAGES
                continue
            context = parse(words)
            called = context.command_path.removesuffix(" build").removesuffix(" write")
            assert called.startswith(path.removesuffix(" build").removesuffix(" write"))
            if (name := context.params.get("preset")) is not None:
                assert name in presets()
            if (name := context.params.get("map_name")) is not None:
                # A map of the user's own, which `map init` writes.
                assert name == "my_map.yml" or find_label_map(name).exists()

    def test_texts_are_sentences(self, path: str) -> None:
        command, context = PAGES[path]
        assert split_examples(command.help)[0][0].endswith(".")
        for param in command.get_params(context):
            assert param.help is None or param.help[-1] in ".;", param.opts


def test_a_wrong_example_is_seen() -> None:
    for line in (
        "histoprep audit tiles --mapp x",
        "histoprep frob",
        "trainer sample --out x",
        "histoprep stats --by nothing",
    ):
        with pytest.raises(Exception, match=r"(?i)no such|missing|not one of|invalid"):
            parse(shlex.split(line))


@pytest.mark.parametrize(
    "line",
    [
        "histoprep --quiet rules",
        "histoprep rules --quiet",
        "histoprep rules -q",
        "histoprep map -q show label_map_5",
    ],
)
def test_quiet_is_heard_before_and_after_the_command(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bool] = []
    out = console.table
    monkeypatch.setattr(
        console,
        "table",
        lambda *args, **more: (heard.append(console.is_quiet()), out(*args, **more)),
    )
    assert run(line, capsys)[0] == ExitCode.OK
    assert set(heard) == {True}
    assert not console.is_quiet()  # the next call in this process starts as it was


@pytest.mark.parametrize(
    "line",
    [
        "--debug audit nowhere",
        "audit --debug nowhere",
        "audit nowhere --debug",
        "manifest --debug nowhere",
    ],
)
def test_debug_is_heard_anywhere(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(f"histoprep {line}", capsys)
    assert code == ExitCode.USAGE
    assert "Traceback" in said


@pytest.mark.parametrize(
    "line",
    [
        "--version",
        "audit --version",
        "manifest --version",
        "manifest build x --version",
        "map show --version",
    ],
)
def test_version_is_heard_anywhere(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"histoprep {line}", capsys)[:2] == (
        ExitCode.OK,
        f"histoprep {histoprep.__version__}\n",
    )


def test_after_two_dashes_and_as_a_value_they_are_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["histoprep", "audit", "--", "--debug"]).params["root"] == Path("--debug")
    assert parse(["histoprep", "audit", "--group-by", "--quiet"]).params["group_by"] == "--quiet"
    code, _, said = run("histoprep audit -- --debug", capsys)
    assert code == ExitCode.USAGE
    assert "at: --debug" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("histoprep audt", "no such command: audt. Did you mean audit?"),
        ("trainer smaple", "no such command: smaple. Did you mean sample?"),
        ("histoprep map chk x.yml", "no such command: chk. Did you mean check?"),
        ("histoprep manifest chek m.parquet", "no such path: chek. Did you mean check?"),
        ("histoprep frobnicate", "The commands are audit, repair, "),
        ("histoprep audit --quie", "no such option: --quie. Did you mean --quiet?"),
        ("histoprep audit --quik", "no such option: --quik. Did you mean --quick?"),
        ("histoprep --quite audit", "no such option: --quite. Did you mean --quiet?"),
        ("histoprep audit -quiet", "no such option: -quiet. Did you mean --quiet?"),
        ("histoprep audit --gruop-by=x", "no such option: --gruop-by. Did you mean --group-by?"),
        ("histoprep audit --zebra", "no such option: --zebra\n"),
        ("histoprep rules --quick", "no such option: --quick\n"),
        ("histoprep --quick", "no such option: --quick\n"),
        (
            "histoprep --quick audit tiles",
            "--quick is an option of audit, and stands after its name",
        ),
        (
            "histoprep --seed 3 manifest tiles",
            "--seed is an option of manifest, and stands after its name",
        ),
    ],
)
def test_suggestions(line: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(line, capsys)
    assert code == ExitCode.USAGE
    assert expected in said
    [hint] = re.findall(r"try: (.+) --help", said)
    assert hint in PAGES


@pytest.mark.parametrize(
    "line",
    [
        "histoprep shard m.parquet --out s3://bucket/x",
        "histoprep fix tiles --out=gs://bucket/x",
        "trainer encode --manifest m.parquet --out az://container/x",
    ],
)
def test_results_go_to_folders_of_this_machine(
    line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program, *arguments = line.split()
    assert PROGRAMS[program].run(arguments) == ExitCode.USAGE
    assert "results are written to folders of this machine" in capsys.readouterr().err
    # Nothing is made of the address.
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_that_is_called_nearly_like_a_command_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chek").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse(["histoprep", "manifest", "chek"]).params["root"] == Path("chek")


def test_likeness() -> None:
    known = ["--quiet", "--quick", "--query"]
    assert closest("--quiet", ["--quick"]) == []
    assert closest("--quie", known) == ["--quiet"]
    assert closest("--", known) == []
    assert closest("x", []) == []


@pytest.mark.parametrize("line", ["histoprep", "histoprep map", "trainer"])
def test_a_bare_program_prints_its_help(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, said = run(line, capsys)
    assert code == ExitCode.USAGE
    assert shown == PAGES[line][0].get_help(PAGES[line][1]) + "\n"
    assert said == ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_python_m(program: str, tmp_path: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", program, *arguments]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert call("verify", "--help").stdout.startswith(
        f"Usage: python -m {program} verify [OPTIONS] PATH\n"
    )
    assert call("--version").stdout == f"{program} {histoprep.__version__}\n"
    wrong = call("verfy")
    assert wrong.returncode == ExitCode.USAGE
    assert f"try: python -m {program} --help" in wrong.stderr


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a real bash offers for a line, with the script that the program prints."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    folder = tmp_path_factory.mktemp("bin")
    for program in PROGRAMS:
        path = folder / program
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {program} "$@"\n')
        path.chmod(0o755)
    # The shell is named, so that the test does not depend on the one it is started from.
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }

    def words(line: str) -> list[str]:
        program, *rest = line.split(" ")
        script = f"""
            eval "$({program} --show-completion bash)"
            COMP_WORDS=({line}{' ""' if line.endswith(" ") else ""}) COMP_CWORD={len(rest)}
            function=$(complete -p {program} | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            "$function" {program}
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            [bash, "--norc", "-c", script],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.split()

    return words


class TestCompletion:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("histoprep re", {"repair", "remap"}),
            ("histoprep audit --gr", {"--group-by"}),
            ("histoprep audit tiles --qui", {"--quiet", "--quick"}),
            ("histoprep audit --format j", {"json", "junit"}),
            ("histoprep manifest --split-m", {"--split-method"}),
            ("histoprep manifest ch", {"check"}),
            ("histoprep manifest tiles --split-method ", {"auto", "hash", "file"}),
            ("histoprep remap --map label_map_", {"label_map_5", "label_map_10"}),
            ("histoprep explain HP40", {"HP401", "HP402", "HP403", "HP404"}),
            ("trainer s", {"sample"}),
            ("trainer fit --preset ldm", {"ldm-tiny"}),
        ],
    )
    def test_words(self, complete: Any, line: str, expected: set[str]) -> None:
        found = set(complete(line))
        assert expected <= found
        assert all(word.startswith(line.rpartition(" ")[2]) for word in found)

    def test_all_commands_are_offered_at_the_start(self, complete: Any) -> None:
        assert complete("trainer ") == list(trainer.cli.COMMANDS)


def test_completing_a_name_imports_no_command() -> None:
    code = (
        "import sys; from histoprep.cli import run\ntry: run([])\nfinally: print(sorted(n for n in"
        " sys.modules if n.startswith('histoprep.cli.')))"
    )
    environment = {
        **os.environ,
        "_HISTOPREP_COMPLETE": "complete_bash",
        "COMP_WORDS": "histoprep ",
        "COMP_CWORD": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split("\n")[-2] == "[]"
    assert "audit" in done.stdout.split()


PROCESS = """
import atexit, sys
from histoprep import cli

atexit.register(print, "last of all", file=sys.stderr)
function = getattr(cli, sys.argv.pop(1))
sys.argv[0] = "histoprep"
function()
"""


@pytest.mark.parametrize(
    "arguments", [("rules",), ("audit", "--no-such-option"), ("audit", "gone")]
)
@pytest.mark.parametrize("stdout", ["pipe", "/dev/full"])
def test_a_process_ends_as_sys_exit_ends_it(arguments: tuple[str, ...], stdout: str) -> None:
    """With its exit code, all that it wrote, and what others do at its end."""
    ended = []
    for function in ("main", "program"):
        with Path(os.devnull if stdout == "pipe" else stdout).open("wb") as place:
            done = subprocess.run(
                [sys.executable, "-c", PROCESS, function, *arguments],
                stdout=subprocess.PIPE if stdout == "pipe" else place,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert done.stderr.count("last of all") == 1
        ended.append((done.returncode, done.stdout, done.stderr))
    assert ended[0] == ended[1]


def test_modules_are_not_taken_apart() -> None:
    code = (
        "import sys, histoprep.cli\n"
        "class Apart:\n    def __del__(self): print('apart')\n"
        "histoprep.kept = Apart()\n"
        "sys.argv = ['histoprep', 'rules']\n"
        "histoprep.cli.program()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout and "apart" not in done.stdout
