"""A front as a LaTeX table (booktabs)."""

from __future__ import annotations

from gimtune.analysis import tables
from gimtune.analysis.text import against, number, plural
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
        "\u00b1": r"$\pm$",
    }
)
_ARROWS = {Direction.MIN: r" $\downarrow$", Direction.MAX: r" $\uparrow$"}
_MARKS = {"collapsed": r"$^{\ast}$", "flagged": r"$^{\dagger}$"}
_MEANINGS = {"collapsed": "collapsed posterior", "flagged": "a divergence whose critic gives no estimate"}


def front_table(front: Front) -> str:
    """The rows of a front: what they are, their objectives on the validation split, and the same on the test split.

    It wants ``\\usepackage{booktabs}``. Values have their standard errors, and points the share of draws in which they
    are on the front, where these are known. An asterisk marks a collapsed posterior, a dagger a flagged divergence.
    """
    table = tables.front_table(front, first=(), most=len(front.rows), shares=True)
    heads = [escape(column.head) + _ARROWS.get(column.direction, "") for column in table.columns]
    lines, seen = [], set()
    for row in table.rows:
        words = {mark.word for cell in row for mark in cell.marks}
        signs = [sign for word, sign in _MARKS.items() if word in words]
        first, *others = (escape(cell.text) for cell in row)
        lines.append(" & ".join(["".join([first, *signs]), *others]) + r" \\")
        seen |= words
    places = "".join("r" if column.numeric else "l" for column in table.columns)
    reference = ", ".join(f"{escape(key.replace('_', ' '))} {number(value)}" for key, value in front.reference.items())
    points = front.points
    features = [str(name) for name in points["fid_features"].dropna().unique()] if "fid_features" in points else []
    measured = [
        f"FID by {', '.join(features)}" if features else "",
        against(points),
        plural(points["seed"].nunique(), "seed") if "seed" in points else "",
    ]
    notes = [
        f"{len(front.rows)} non-dominated of {len(front.points)} trials, chosen on the validation split",
        f"hypervolume {number(front.hypervolume)} from the reference point ({reference})" if len(front.rows) else "",
        *map(escape, measured),
        *(f"{sign} {_MEANINGS[word]}" for word, sign in _MARKS.items() if word in seen),
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{'; '.join(filter(None, notes))}.}}",
            f"  \\begin{{tabular}}{{{places}}}",
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
