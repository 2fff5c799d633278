"""Run folders -> a table, figures and one self-contained HTML page.

Reads run folders only and imports none of the training code.
"""
