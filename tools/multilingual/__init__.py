"""Generate the multilingual task files, and the page that shows them."""
