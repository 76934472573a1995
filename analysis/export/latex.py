"""A front as a LaTeX table (booktabs)."""

from __future__ import annotations

from gimtune.analysis.text import flags, number
from gimtune.results.pareto import Front
from gimtune.vocabulary import Direction

_ESCAPED = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\n": " ",
    }
)
_ARROWS = {Direction.MIN: r" $\downarrow$", Direction.MAX: r" $\uparrow$"}
_SETTING = ("model", "prior", "weight", "latent_dim", "seed")
_MARKS = (r"$^{\ast}$", r"$^{\dagger}$")


def front_table(front: Front) -> str:
    """The rows of a front: what they are, their objectives on the validation split, and the same on the test split.

    It wants ``\\usepackage{booktabs}``. An asterisk marks a collapsed posterior, a dagger a flagged divergence.
    """
    keys = [*front.objectives]
    columns = [*_SETTING, *keys, *(f"test_{key}" for key in keys)]
    arrows = {name: _ARROWS[way] for key, way in front.objectives.items() for name in (key, f"test_{key}")}
    heads = [escape(column.replace("_", " ")) + arrows.get(column, "") for column in columns]
    lines, seen = [], set()
    for row in front.rows.reindex(columns=[*columns, "collapsed", "flags", "trial"]).to_dict("records"):
        cells = [escape(number(row[column])) for column in columns]
        for mark, holds in zip(_MARKS, (row["collapsed"], bool(flags(row))), strict=True):
            if holds:
                cells[0] += mark
                seen.add(mark)
        lines.append(" & ".join(cells) + r" \\")
    numbers = "r" * (len(columns) - 2)
    reference = ", ".join(f"{escape(key.replace('_', ' '))} {number(value)}" for key, value in front.reference.items())
    notes = [
        f"{len(front.rows)} non-dominated of {len(front.points)} trials, chosen on the validation split",
        f"hypervolume {number(front.hypervolume)} from the reference point ({reference})" if len(front.rows) else "",
        f"{_MARKS[0]} collapsed posterior" if _MARKS[0] in seen else "",
        f"{_MARKS[1]} a divergence whose critic gives no estimate" if _MARKS[1] in seen else "",
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{'; '.join(filter(None, notes))}.}}",
            f"  \\begin{{tabular}}{{ll{numbers}}}",
            r"    \toprule",
            "    " + " & ".join(heads) + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Text in which nothing is a command.

    >>> print(escape("beta_vae & 5 %"))
    beta\\_vae \\& 5 \\%
    """
    return text.translate(_ESCAPED)
