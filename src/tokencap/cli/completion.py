"""`tokencap completion`: what a shell needs to complete the command line.

The shell asks this very command, which knows its options, and from the store the names of the budgets.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import TokencapError
from .options import add_command
from .store import opened, settled

if TYPE_CHECKING:
    from .._entry import KnownBudget
    from .console import Console
    from .options import Commands

__all__ = ["add", "candidates"]

_SCRIPTS = {
    "bash": """\
_tokencap() {
    local IFS=$'\\x1f' words
    words="${COMP_WORDS[*]:0:COMP_CWORD+1}"
    IFS=$'\\n'
    COMPREPLY=($(COMP_WORDBREAKS="$COMP_WORDBREAKS" tokencap completion bash --words "$words" 2>/dev/null))
}
complete -o default -F _tokencap tokencap
""",
    "zsh": """\
#compdef tokencap
_tokencap() {
    local -a found
    found=("${(@f)$(tokencap completion zsh --words "${(pj:\\x1f:)words[1,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then
        _describe tokencap found
    else
        _files
    fi
}
if [[ "${funcstack[1]}" == _tokencap ]]; then
    _tokencap "$@"
else
    compdef _tokencap tokencap
fi
""",
    "fish": """\
function __tokencap_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found (tokencap completion fish --words (string join \\x1f -- $words) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c tokencap -f -a '(__tokencap_complete)'
""",
}
_BETWEEN = "\x1f"
"""Between the words that a script hands over, for argparse has its own view of `--`."""
_MOST = 200
# A shell takes the rest for more than a name, and a tenant may be called as an attacker likes.
_HARMLESS = re.compile(r"[\w.@%+,/:=-]+", re.ASCII)

Found = Iterable[tuple[str, str]]
"""Words that may stand here, with what they mean."""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "completion",
        perform,
        "Write what makes a shell complete commands, options and the names of budgets.",
        [
            ("tokencap completion bash > ~/.local/share/bash-completion/completions/tokencap", ""),
            ('tokencap completion zsh > "${fpath[1]}/_tokencap"', "a folder of yours, before compinit"),
            ("tokencap completion fish > ~/.config/fish/completions/tokencap.fish", ""),
        ],
        notes="For this shell only: source <(tokencap completion bash), and so for zsh.",
        as_json=False,
    )
    parser.add_argument("shell", metavar="SHELL", choices=list(_SCRIPTS), help="bash, zsh or fish")
    parser.add_argument("--words", help=argparse.SUPPRESS)
    parser.set_defaults(commands=commands)


def perform(args: argparse.Namespace, console: Console) -> int:
    """Write the script, or what may stand in place of the last of the words."""
    if args.words is None:
        console.write(_SCRIPTS[args.shell])
        return 0
    words = args.words.split(_BETWEEN)[1:] or [""]
    cut_off = 0
    if args.shell == "bash":
        breaks = set(os.environ.get("COMP_WORDBREAKS", "")) & set("=:")
        words = _joined(words, breaks)
        cut_off = max([words[-1].rfind(each) for each in breaks], default=-1) + 1
    for word, what in sorted(set(candidates(args.commands.choices, words, args.backend))):
        console.write(
            {
                "bash": word[cut_off:],
                "zsh": word.replace(":", "\\:") + (f":{what}" if what else ""),
                "fish": f"{word}\t{what}",
            }[args.shell]
            + "\n"
        )
    return 0


def _joined(words: Sequence[str], breaks: set[str]) -> list[str]:
    """Put together what bash takes apart: `tenant=acme` comes as three words."""
    joined: list[str] = []
    glued = False
    for word in words:
        breaking = bool(word) and set(word) <= breaks
        if joined and (glued or breaking):
            joined[-1] += word
        else:
            joined.append(word)
        glued = breaking
    return joined


def candidates(
    commands: dict[str, argparse.ArgumentParser], words: Sequence[str], backend: str = ""
) -> list[tuple[str, str]]:
    """Return what may stand in place of the last of the words that follow `tokencap`.

    Nothing where the shell should look for files. `backend`: the store, unless the words name one.
    """
    *before, current = words
    if not before:
        about = [(name, _first_line(parser.description)) for name, parser in commands.items()]
        return [(word, what) for word, what in about if word.startswith(current)]
    parser = commands.get(before[0])
    if parser is None or "--" in before:
        return []
    options = {name: action for action in parser._actions for name in action.option_strings}
    given: dict[str, str] = {}
    places = [action for action in parser._actions if not action.option_strings]
    pending: argparse.Action | None = None
    for word in before[1:]:
        if pending is not None:
            given[pending.dest] = word
            pending = None
        elif word.startswith("-"):
            name, equals, value = word.partition("=")
            action = options.get(name)
            if action is not None and equals:
                given[action.dest] = value
            elif action is not None and action.nargs is None:
                pending = action
        elif places:
            given[places.pop(0).dest] = word
        else:
            return []  # what `run` runs
    found: Found
    if pending is None and current.startswith("-"):
        found = [
            (name, _first_line(action.help))
            for name, action in options.items()
            if action.help != argparse.SUPPRESS and name.startswith("--")
        ]
    else:
        action = pending or (places[0] if places else None)
        found = _values(action, given, given.get("backend") or backend) if action is not None else []
    return [(word, what) for word, what in found if word.startswith(current) and _HARMLESS.fullmatch(word)][
        :_MOST
    ]


def _values(action: argparse.Action, given: dict[str, str], backend: str) -> Found:
    if action.choices is not None:
        return [(str(each), "") for each in action.choices]
    if action.dest == "tokens":
        return [("default", "the limit that the app configures")]
    if action.dest not in ("budget", "dimension", "identifier", "id"):
        return []
    known = _budgets(backend)
    if action.dest == "identifier":
        return [(one.key.identifier, "") for one in known if one.key.dimension == given.get("dimension")]
    whole = [(f"{one.key.dimension}={one.key.identifier}", "") for one in known]
    if action.dest == "id":
        return whole
    dimensions = [(one.key.dimension, "every budget of it") for one in known]
    return dimensions if action.dest == "dimension" else [*dimensions, *whole]


def _budgets(backend: str) -> Sequence[KnownBudget]:
    try:
        with opened(settled(os.path.expanduser(backend), os.environ)) as store:
            return store.budgets()
    except TokencapError:
        return []


def _first_line(text: str | None) -> str:
    return " ".join((text or "").split()).partition(":")[0].rstrip(".")
