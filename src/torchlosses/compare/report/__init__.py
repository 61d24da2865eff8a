"""report.html: one file, nothing from the network, pictures as inline SVG, no script.

page       the sections in their order
words      numbers and settings as text
markup     tables, lists, and the page around them
pictures   the charts
axes       scales and ticks of a chart
"""

from torchlosses.compare.report.page import page

__all__ = ["page"]
