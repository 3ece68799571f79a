"""
Sphinx's configuration. It is read in the environment of requirements/docs.txt, which has nothing of Modelyard.
"""

project = "Modelyard"
html_title = "Modelyard"
extensions = ["myst_parser"]
html_theme = "furo"
# Anchors as other renderers of Markdown make them, so that a link works in both.
myst_heading_anchors = 4
myst_links_external_new_tab = False
# Nothing is fetched at view time: the theme uses the system's fonts, and mathematics would load a script.
html_static_path = ["static"]
html_css_files = ["modelyard.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
highlight_language = "none"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {"sidebar_hide_name": False, "navigation_with_keys": True}
html_use_index = False
# The lexer of PromQL does not know names with colons, as recording rules have them.
suppress_warnings = ["misc.highlighting_failure"]
