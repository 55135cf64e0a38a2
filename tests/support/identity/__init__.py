"""One evaluation, and every way in which it can be changed."""
