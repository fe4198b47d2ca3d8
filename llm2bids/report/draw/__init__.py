"""Arrays into pictures: SVG charts, palette PNGs and packed maps, coloured for light and dark."""
