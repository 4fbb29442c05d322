"""The main job, end to end: real data, R, a real cluster, every answer checked and the claim proven."""
