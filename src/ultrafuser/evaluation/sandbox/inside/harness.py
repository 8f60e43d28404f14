"""Runs one program in its own interpreter and says, by a word that the program was never told, that it came to its end.

The request comes as JSON on standard input. This text is handed to the interpreter with `-c`: inside the sandbox there
is no file of ours.
"""

import json
import linecache
import os
import site
import sys
import traceback
import types


def set_limits(limits):
    """Set soft and hard resource limits by name; a limit that the platform does not know or allow is passed over."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, (soft, hard) in limits.items():
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        try:
            resource.setrlimit(kind, (soft, hard))
        except (OSError, ValueError):
            continue  # macOS has no limit on address space


def run_parts(parts, namespace):
    """Compile and run the texts one after another in one namespace."""
    for name, text in parts:
        if text:
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
            exec(compile(text, name, "exec", dont_inherit=True), namespace)


def explain(error):
    """The traceback from the program's first line on; a bare AssertionError ends in the assertion itself."""
    frames = traceback.TracebackException(type(error), error, error.__traceback__, limit=None)
    del frames.stack[:2]  # main and run_parts
    text = "".join(frames.format()).rstrip("\n")
    if isinstance(error, AssertionError) and not str(error) and frames.stack:
        text += f": {(frames.stack[-1].line or '')[:300]}"
    return text + "\n"


def main():
    """Read the request, run the program, write the word if it came to its end. Leaves by `_exit`, whatever happens."""
    request = json.loads(sys.stdin.buffer.read())
    silence = os.open(os.devnull, os.O_RDONLY)
    os.dup2(silence, 0)
    os.close(silence)
    word, channel, leave, write = request["word"].encode(), os.dup(1), os._exit, os.write
    sys.path.extend(request["paths"])
    site.setquit()  # exit() and quit(), which an interpreter started without site packages lacks
    os.chdir(request["folder"])
    set_limits(request["limits"])
    module = types.ModuleType("program")  # not __main__: what a script does when it is started is not asked for
    sys.modules["program"] = module
    parts = request["parts"]
    del request
    try:
        run_parts(parts, module.__dict__)
    except BaseException as error:
        try:
            text = explain(error)
        except BaseException:
            text = f"{type(error).__name__}\n"
        write(channel, text.encode("utf-8", "replace"))
        leave(1)
    try:
        sys.stdout.flush()
    finally:
        write(channel, word)
        leave(0)


if __name__ == "__main__":
    main()
