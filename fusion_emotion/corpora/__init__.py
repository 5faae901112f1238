"""File names to clips, speakers and takes; corpora; named protocols; downloads."""
