"""Which images are taken, and how any of them becomes upright RGB.

The gateway inspects, from the header alone; a vision worker decodes, in processes of its own.

```
inspection   one of jpeg | png | webp | gif | bmp | tiff → tiff_forms   walks the file, bounded
pixels       Pillow, on what the pixels need of the file
decoder      the process in which it runs
```
"""

from glm4v.images.header import ImageHeader
from glm4v.images.inspection import FORMATS, inspect
from glm4v.images.limits import ImageLimits

__all__ = ["FORMATS", "ImageHeader", "ImageLimits", "inspect"]
