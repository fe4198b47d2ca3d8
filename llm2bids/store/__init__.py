"""Files that are whole or not there, and files whose content is elsewhere."""
