"""`lastgood demo`: the main job on a real file, from end to end, with every claim checked."""
