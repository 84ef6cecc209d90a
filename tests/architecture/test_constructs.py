"""What no file may contain: ways to execute what was read, global state, work at import, too much at once."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_tree import ROOT, all_python_files, module_name, package_files, tree_of

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60

# A module without a better name has no home yet.
HOMELESS_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}

# They build arbitrary objects from bytes.
EXECUTING_FORMATS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}

BANNED_CALLS = {
    "eval": "executes text",
    "exec": "executes text",
    "__import__": "imports by a name from data",
    "importlib.import_module": "imports by a name from data",
    "import_module": "imports by a name from data",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "subprocess.getoutput": "starts a shell",
    "subprocess.getstatusoutput": "starts a shell",
    "yaml.load": "builds any object that the file names; use data_pipeline.config.read_yaml",
    "yaml.full_load": "builds objects that the file names; use data_pipeline.config.read_yaml",
    "yaml.unsafe_load": "builds any object that the file names; use data_pipeline.config.read_yaml",
    "torch.save": "writes a pickle; use safetensors",
    "numpy.load": "may read a pickle",
    "np.load": "may read a pickle",
}

# The one file that reads what torch.save wrote, a pickle; there the reader may build nothing but plain values.
READS_TORCH_FILES = "llama_dist.interop.inert_file"

BANNED_KEYWORDS = {("shell", True), ("weights_only", False), ("allow_pickle", True), ("trust_remote_code", True)}

# Ends processes of other people that happen to have the name.
ENDS_BY_NAME = ("p" + "kill", "kill" + "all")


def faults_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and reason of every banned construct in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in BANNED_CALLS:
                yield node.lineno, f"{name}() {BANNED_CALLS[name]}"
            if name == "torch.load" and not any(ast.unparse(one) == "weights_only=True" for one in node.keywords):
                yield node.lineno, "torch.load() without weights_only=True executes what it reads"
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in BANNED_KEYWORDS:
                    yield node.lineno, f"{keyword.arg}={keyword.value.value}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for module in modules:
                if (module or "").split(".")[0] in EXECUTING_FORMATS:
                    yield node.lineno, f"{module} executes what it reads"
        elif isinstance(node, ast.Global):
            yield node.lineno, "global state: pass it as an argument"


def long_functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            num_lines = node.end_lineno - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {num_lines} lines, at most {MAX_FUNCTION_LINES}: split it"


def work_at_import(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in tree.body:
        if isinstance(node, ast.For | ast.While | ast.With | ast.Delete | ast.Assert | ast.Raise):
            yield node.lineno, f"{type(node).__name__.lower()} at the top level runs at import: put it into a function"


def told(file: Path, faults: Iterator[tuple[int, str]]) -> list[str]:
    return [f"{file.relative_to(ROOT)}:{line}: {reason}" for line, reason in faults]


def test_no_file_has_a_banned_construct():
    faults = [fault for file in package_files() for fault in told(file, faults_in(tree_of(file)))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "def f(x):\n    return eval(x)",
        "exec('1')",
        "import os\nos.system('ls')",
        "subprocess.run('ls', shell=True)",
        "torch.load(path, weights_only=False)",
        "torch.load(path)",
        "torch.load(path, weights_only=is_safe)",
        "yaml.load(text)",
        "importlib.import_module(name)",
        "def f():\n    global x",
    ],
)
def test_each_banned_construct_is_caught(code):
    assert list(faults_in(ast.parse(code)))


def test_one_file_alone_reads_what_torch_saved():
    """And it alone says what such a file may name beyond torch's own types."""
    words = ("torch.load(", "safe_globals", "torch.jit.load", "torch.hub")
    readers = {module_name(file) for file in package_files() if any(word in file.read_text("utf-8") for word in words)}
    assert readers == {READS_TORCH_FILES}


def test_tests_and_benchmarks_start_no_shell_and_end_nothing_by_name():
    files = [file for file in all_python_files() if file.name != Path(__file__).name]
    files += [file for name in ("Makefile", ".ci/run") if (file := ROOT / name).is_file()]
    faults = [
        f"{file.relative_to(ROOT)}: {word}"
        for file in files
        for word in ENDS_BY_NAME
        if word in file.read_text("utf-8")
    ]
    for file in files:
        if file.suffix == ".py":
            faults += [fault for fault in told(file, faults_in(tree_of(file))) if "shell" in fault]
    assert not faults, "\n".join(faults)


def test_the_model_touches_no_process_group_through_torch():
    """`import torch` alone also reaches torch.distributed, so the import table cannot see it."""
    for file in package_files():
        if module_name(file).startswith("llama_dist.model"):
            names = {ast.unparse(node) for node in ast.walk(tree_of(file)) if isinstance(node, ast.Attribute)}
            assert not {name for name in names if name.startswith("torch.distributed")}, file


def test_files_fit_a_reader():
    long = {
        str(file.relative_to(ROOT)): num_lines
        for file in all_python_files()
        if (num_lines := len(file.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    }
    assert not long, f"over {MAX_FILE_LINES} lines, split by idea: {long}"


def test_functions_fit_a_screen():
    faults = [fault for file in all_python_files() for fault in told(file, long_functions(tree_of(file)))]
    assert not faults, "\n".join(faults)


def test_a_long_function_is_caught():
    body = "\n".join("    x = 1" for _ in range(MAX_FUNCTION_LINES))
    assert list(long_functions(ast.parse(f"def f():\n{body}\n")))


def test_nothing_runs_at_import():
    faults = [fault for file in package_files() for fault in told(file, work_at_import(tree_of(file)))]
    assert not faults, "\n".join(faults)


def test_every_module_has_a_name_that_says_what_it_is():
    homeless = [module_name(file) for file in package_files() if HOMELESS_NAMES & set(module_name(file).split("."))]
    assert not homeless, homeless


def test_every_file_opens_by_saying_what_it_is_for():
    silent = [str(file.relative_to(ROOT)) for file in package_files() if not ast.get_docstring(tree_of(file))]
    assert not silent, silent


def test_test_files_have_names_of_their_own():
    """pytest imports them as top-level modules, so two of one name would shadow each other."""
    names = [file.name for file in (ROOT / "tests").rglob("*.py") if file.name != "conftest.py"]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
