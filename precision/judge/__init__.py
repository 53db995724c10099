"""A judge of captions: a CLIP model of open_clip, from files on this machine, in float32.

```
clip          images and texts → unit vectors
window        how much of a caption the judge reads, and captions cut into parts that it reads whole
weights_file  what a file of weights is, by its first bytes
library       open_clip itself, or what to install
```
"""
