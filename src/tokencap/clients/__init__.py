"""Where calls are caught: one seam per SDK family, streams, raw replies, patching."""
