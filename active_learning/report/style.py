"""The page's style sheet. Colours are the charts' palette, once for light and once for dark."""

from active_learning.report.charts import css_variables

_RULES = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55; font-size: 17px;
  font-family: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif; }
main { max-width: 1120px; margin: 0 auto; padding: 56px 28px 72px; }
.kicker, h4, table, .legend, .numbers, figcaption, footer, svg text, summary, .none {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif !important; }
.kicker { color: var(--soft); font-size: 14px; margin: 26px 0 0; }
h1 { font-size: 38px; line-height: 1.15; font-weight: 600; letter-spacing: -0.012em; margin: 0 0 20px; max-width: 24em;
  overflow-wrap: anywhere; }
.lead { font-size: 22px; line-height: 1.45; max-width: 39em; margin: 0 0 30px; overflow-wrap: anywhere; }
h2 { font-size: 25px; font-weight: 600; letter-spacing: -0.008em; margin: 64px 0 6px; }
h3 { font-size: 19px; font-weight: 600; margin: 34px 0 2px; overflow-wrap: anywhere; }
h4 { font-size: 14px; font-weight: 600; margin: 20px 0 8px; }
h4 span { font-weight: 400; color: var(--soft); margin-left: 6px; }
p.note { color: var(--soft); font-size: 15px; line-height: 1.5; max-width: 52em; margin: 0 0 18px; }
ul.notes { color: var(--ink); font-size: 15px; max-width: 56em; padding-left: 18px; margin: 18px 0 0; }
.numbers { display: flex; flex-wrap: wrap; gap: 14px 56px; margin: 0 0 8px; padding: 0; }
.numbers div { min-width: 150px; }
.numbers b { display: block; font-size: 40px; line-height: 1.1; font-weight: 600; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; }
.numbers span { color: var(--soft); font-size: 14px; }
.numbers .lost b { color: var(--bad); }
.legend { display: flex; flex-wrap: wrap; gap: 6px 22px; font-size: 14px; margin: 12px 0 10px; padding: 0;
  list-style: none; }
.legend li { display: flex; align-items: center; gap: 8px; overflow-wrap: anywhere; }
.legend i { flex: none; width: 22px; height: 0; border-top: 3px solid; border-radius: 2px; }
.legend i.box { height: 12px; width: 12px; border: 0; border-radius: 2px; }
.panels { margin-bottom: 16px; display: grid; gap: 18px 26px;
  grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); }
.pair { display: grid; gap: 8px 40px; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
.pair h2 { margin-top: 56px; }
.bars { max-width: 880px; } .histogram { max-width: 460px; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
.wide { width: min(100vw - 48px, 1560px); position: relative; left: 50%; transform: translateX(-50%); }
.scroll { overflow-x: auto; margin: 14px 0 14px; border-top: 2px solid var(--ink);
  border-bottom: 1px solid var(--soft); }
table { border-collapse: collapse; font-size: 13px; line-height: 1.35; font-variant-numeric: tabular-nums; width: 100%;
  }
thead th { color: var(--soft); font-weight: 500; text-align: right; vertical-align: bottom; padding: 10px 8px 8px;
  border-bottom: 1px solid var(--grid); }
td { text-align: right; padding: 5px 8px; white-space: nowrap; vertical-align: top; }
td small { display: block; font-size: 11px; font-weight: 400; color: var(--soft); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); padding-left: 0; }
tbody th { font-weight: 600; padding: 5px 14px 5px 0; vertical-align: top; min-width: 10em;
  max-width: 17em; overflow-wrap: break-word; }
tbody tr.first th, tbody tr.first td { border-top: 1px solid var(--grid); padding-top: 9px; }
.wide tbody tr:not(.first) th { font-size: 0; }
tr.decides td { font-weight: 650; }
tr.void td, tr.void th { color: var(--soft); font-weight: 400; }
tr.void td { text-decoration: line-through; text-decoration-thickness: 1px; }
.cuts { margin-top: 24px; }
.small { display: inline-block; max-width: 100%; margin-top: 0; } .small table { width: auto; }
.small td, .small th { white-space: nowrap; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(74px, 1fr)); gap: 12px 10px; }
.thumb { margin: 0; min-width: 0; }
.thumb img { width: 100%; aspect-ratio: 1; object-fit: cover; image-rendering: pixelated; display: block;
  border-radius: 3px; }
.thumb.wrong img { outline: 3px solid var(--bad); outline-offset: -1px; }
.thumb figcaption { font-size: 11.5px; line-height: 1.25; color: var(--soft); margin-top: 6px; overflow-wrap: anywhere;
  }
.thumb.wrong figcaption { color: var(--bad); }
details { border-top: 1px solid var(--grid); margin-top: 18px; padding-top: 12px; }
summary { cursor: pointer; font-size: 16px; font-weight: 600; }
.none { color: var(--soft); font-size: 14px; margin: 8px 0 0; }
footer { margin-top: 72px; padding-top: 14px; border-top: 1px solid var(--grid); color: var(--soft); font-size: 13px;
  overflow-wrap: anywhere; }
@media (max-width: 640px) {
  main { padding: 32px 18px 48px; } h1 { font-size: 29px; } .lead { font-size: 19px; } h2 { margin-top: 46px; }
  .numbers b { font-size: 32px; } tbody th { max-width: 9em; min-width: 6em; }
}
@media print { main { max-width: none; padding: 0; } h2, .strip { break-after: avoid; } }
"""


def style_sheet() -> str:
    """CSS of the whole page, without any outside resource."""
    light, dark = css_variables(False), css_variables(True)
    night = f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    return f":root {{ color-scheme: light dark; {light} }}\n{night}\n{_RULES}"
