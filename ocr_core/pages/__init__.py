"""One page: from gray pixels before an engine to the text of the page on the page."""
