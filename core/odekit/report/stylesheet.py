"""The look of the report page: a light sheet, one column, for screens of any width and paper."""

from __future__ import annotations

STYLESHEET = """
:root { color-scheme: light; --ink: #1f2933; --soft: #5b6773; --line: #dfe4e9; --blue: #0072b2;
  --good: #e8f4ee; --good-edge: #009e73; --doubt: #fdf3e4; --doubt-edge: #d98200; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: #f4f6f8; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans",
  sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 880px; margin: 32px auto; background: #fff; padding: 48px 56px 32px;
  border: 1px solid var(--line); border-radius: 6px; }
header { margin-bottom: 28px; }
.kicker { margin: 0; color: var(--blue); font-size: 13px; font-weight: 600;
  letter-spacing: 0.04em; }
h1 { margin: 4px 0 8px; font-size: 32px; line-height: 1.2; font-weight: 650;
  overflow-wrap: anywhere; }
.summary { margin: 0; color: var(--soft); font-size: 17px; }
section { margin-top: 40px; }
h2 { margin: 0 0 14px; font-size: 20px; line-height: 1.3; font-weight: 650; }
h3 { margin: 24px 0 8px; font-size: 16px; font-weight: 650; }
p { margin: 0 0 10px; }
.note, figcaption { margin-top: 10px; color: var(--soft); font-size: 14px; line-height: 1.5; }
.verdict { padding: 16px 20px; border-left: 4px solid; border-radius: 3px; }
.verdict.good { background: var(--good); border-color: var(--good-edge); }
.verdict.doubtful { background: var(--doubt); border-color: var(--doubt-edge); }
.verdict .head { margin-bottom: 4px; font-size: 17px; font-weight: 650; }
.verdict p:last-child { margin-bottom: 0; }
.verdict ul { margin: 8px 0 0; padding-left: 20px; }
.formula { overflow-x: auto; padding: 10px 4px; font-size: 22px; }
math { font-family: "Cambria Math", "STIX Two Math", "Latin Modern Math", "TeX Gyre DejaVu Math",
  "DejaVu Math TeX Gyre", math; }
.formula math { margin: 0 auto; }
sup { line-height: 0; font-size: 0.75em; }
.formula mtd { padding: 0.35em 0.15em; }
.formula mtd:first-child { text-align: right; }
.formula mtd:last-child { text-align: left; }
td math { font-size: 1em; }
.wide { overflow-x: auto; margin-bottom: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th { text-align: left; font-weight: 600; font-size: 13.5px; color: var(--soft);
  border-bottom: 1.5px solid var(--ink); padding: 6px 14px 6px 0; white-space: nowrap; }
td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: baseline;
  white-space: nowrap; }
.alternatives td { white-space: normal; }
.alternatives td.number { white-space: nowrap; }
.alternatives td:nth-child(3) { min-width: 150px; }
.alternatives td:last-child { min-width: 240px; }
.terms { margin: 0; padding: 0; list-style: none; font-size: 15px; }
.terms li { display: inline-block; margin: 0 22px 4px 0; white-space: nowrap; }
th.number, td.number { text-align: right; }
th:last-child, td:last-child { padding-right: 0; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; }
figure.phase_portrait img { max-width: 640px; margin: 0 auto; }
dl { display: grid; grid-template-columns: minmax(130px, max-content) 1fr; gap: 7px 24px;
  margin: 0; font-size: 15px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: 13.5px/1.5 ui-monospace, "SF Mono", Consolas, "Liberation Mono", monospace; }
pre { margin: 8px 0 0; padding: 14px 16px; background: #f4f6f8; border-radius: 4px;
  overflow-x: auto; }
details { margin-bottom: 8px; }
summary { cursor: pointer; color: var(--blue); }
.works { margin: 0; padding-left: 20px; font-size: 14px; color: var(--soft); }
.works li { margin-bottom: 4px; }
footer { margin-top: 48px; padding-top: 14px; border-top: 1px solid var(--line);
  color: var(--soft); font-size: 13.5px; }
@media (max-width: 640px) {
  main { margin: 0; padding: 24px 18px; border: 0; border-radius: 0; }
  h1 { font-size: 26px; }
  .formula { font-size: 18px; }
  table { font-size: 13px; }
  th { font-size: 12.5px; white-space: normal; vertical-align: bottom; }
  th, td { padding-right: 8px; }
  td { white-space: normal; }
  .stacked thead { display: none; }
  .stacked, .stacked table, .stacked tbody { display: block; }
  .stacked table { font-size: 14px; }
  .stacked tr { display: block; padding: 7px 0; border-bottom: 1px solid var(--line); }
  .stacked td, .stacked td.number { display: grid; grid-template-columns: 120px 1fr; gap: 10px;
    padding: 2px 0; border: 0; text-align: left; min-width: 0; white-space: normal;
    overflow-wrap: anywhere; }
  .stacked td::before { content: attr(data-name); color: var(--soft); }
  .alternatives td:nth-child(3), .alternatives td:last-child { min-width: 0; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; }
}
@media print {
  @page { margin: 16mm 15mm; }
  body { background: #fff; font-size: 11pt; }
  main { max-width: none; margin: 0; padding: 0; border: 0; }
  section { margin-top: 22pt; }
  .verdict { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  figure, table, .formula, .verdict, dl > * { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .wide, .formula { overflow: visible; }
  figure.phase_portrait img { max-width: 125mm; }
}
"""
