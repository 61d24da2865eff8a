"""Tables, lists, and the page around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root{color-scheme:light dark;--ink:#1a1d21;--soft:#59616c;--line:#d9dde2;--paper:#fff;--mark:#1f5fbf;--pale:#eef3fb;
--other:#8a93a0}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a9b1bb;--line:#3a4048;--paper:#16181c;--mark:#7fb0ff;
--pale:#212a38;--other:#7d8794}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:64rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .5rem}
h3{font-size:1rem;margin:1rem 0 0}
p,li{overflow-wrap:anywhere}p{margin:.5rem 0}.soft{color:var(--soft)}.answer{font-size:1.1rem}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;background:var(--paper);padding:.5rem}
:focus-visible{outline:3px solid var(--mark);outline-offset:2px}
a{color:var(--mark)}nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1rem;list-style:none;padding:0;margin:.75rem 0}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding:.25rem 0}
caption span{display:block;position:sticky;left:0;max-width:min(62rem,calc(100vw - 2rem))}
th,td{text-align:right;padding:.35rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap;font-weight:400}
thead th{font-weight:600;white-space:normal;vertical-align:bottom}
td.text,th.text{text-align:left;white-space:normal;min-width:7rem}
th:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
tbody th{font-weight:600;white-space:normal;overflow-wrap:normal}tr.best th:first-child{background:var(--pale)}
tr.best{background:var(--pale)}tr.beside th,tr.beside td{font-style:italic}
pre{background:var(--pale);padding:.75rem;overflow-x:auto;border-radius:.4rem;font-size:.9rem}
details{border-top:1px solid var(--line);padding:.4rem 0}summary{cursor:pointer;font-weight:600;padding:.3rem 0}
.grid{display:grid;gap:.75rem 1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr))}
figure{margin:.5rem 0}figcaption{font-size:.85rem;color:var(--soft)}
.chart{max-width:40rem}
svg{width:100%;height:auto;display:block;font:14px system-ui,sans-serif}svg text{fill:var(--ink)}svg .soft{fill:var(--soft)}
svg .rule{stroke:var(--line)}svg .bar{stroke:var(--mark);stroke-width:2.5}svg .mean{fill:var(--mark)}
svg .seed{fill:var(--mark);opacity:.35}svg .line{fill:none;stroke:var(--mark);stroke-width:2}
svg .back{fill:none;stroke:var(--other);opacity:.35}svg .beside .mean{fill:var(--other)}svg .beside .bar{stroke:var(--other)}
svg .hollow{fill:var(--paper);stroke:var(--mark);stroke-width:2}
@media(max-width:40rem){th:first-child{position:static;min-width:0}th,td{padding:.3rem .4rem}table{font-size:.9rem}}
@media print{nav,.skip{display:none}.wide{overflow:visible}details>*{display:block}}
"""


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, marks: Sequence[str] = (), text: int = 99
) -> str:
    """A table whose first column names the rows; columns from ``text`` on are words."""
    cells = "".join(f"<th scope=col{'' if k < text else ' class=text'}>{escape(h)}</th>" for k, h in enumerate(head))
    body = []
    for place, row in enumerate(rows):
        mark = f' class="{marks[place]}"' if place < len(marks) and marks[place] else ""
        first, *others = row
        kinds = ["" if k < text else " class=text" for k in range(1, len(row))]
        shown = "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, others, strict=True))
        body.append(f"<tr{mark}><th scope=row>{escape(first)}</th>{shown}</tr>")
    name = escape(caption)
    return (
        f'<div class=wide tabindex=0 role=region aria-label="{name}"><table><caption><span>{name}</span></caption>'
        f"<thead><tr>{cells}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def items(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def code(text: str, label: str) -> str:
    return f'<pre tabindex=0 role=region aria-label="{escape(label)}"><code>{escape(text)}</code></pre>'


def document(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """A page: a heading, what comes first, then sections that a list at the top leads to."""
    named = [(f"part-{k}", heading, body) for k, (heading, body) in enumerate(sections, 1) if body]
    links = "".join(f'<li><a href="#{key}">{escape(heading)}</a></li>' for key, heading, _ in named)
    body = "".join(
        f'\n<section aria-labelledby="{key}">\n<h2 id="{key}">{escape(heading)}</h2>\n{body}\n</section>'
        for key, heading, body in named
    )
    return (
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width,initial-scale=1">\n<link rel=icon href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        '<a class=skip href="#main">To the results</a>\n'
        f"<main id=main>\n<h1>{escape(title)}</h1>\n{lead}\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>{body}\n</main>\n</body>\n</html>'
    )
