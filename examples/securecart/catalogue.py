"""What the shop sells: prices in cents, and how many of each there are at first. The scarce ones are soon gone."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Product:
    """Something for sale. *stock* is how many there are before the first order."""

    sku: str
    name: str
    cents: int
    stock: int


_PRODUCTS = (
    Product("BOOK-0142", "Hardcover notebook, dotted, A5", 1_690, 4_000),
    Product("BOOK-0871", "Field guide to the birds of Europe", 2_995, 1_200),
    Product("CABL-2001", "USB-C cable, 1 m, braided", 1_249, 9_000),
    Product("CABL-2003", "USB-C cable, 3 m, braided", 1_949, 6_000),
    Product("CAMP-0310", "Gas stove, 82 g, titanium", 4_995, 450),
    Product("CAMP-0355", "Sleeping mat, insulated", 13_900, 180),
    Product("CHAR-0650", "Charger, 65 W, three ports", 4_999, 2_500),
    Product("COFF-1000", "Coffee beans, Sidamo, 1 kg", 2_490, 3_000),
    Product("COFF-2200", "Hand grinder, steel burr", 8_900, 260),
    Product("DESK-0100", "Desk lamp, dimmable, brass", 11_900, 140),
    Product("GAME-0007", "Board game, second edition", 3_999, 700),
    Product("HEAD-0900", "Headphones, over-ear, refurbished", 17_900, 12),
    Product("KEYB-0075", "Keyboard, 75 %, tactile", 12_900, 320),
    Product("KITC-0420", "Cast-iron pan, 28 cm", 6_450, 800),
    Product("KNIF-0180", "Paring knife, carbon steel", 3_290, 900),
    Product("LENS-0035", "Lens, 35 mm, used, one of a kind", 42_000, 1),
    Product("MUGS-0004", "Mugs, stoneware, set of four", 3_600, 1_500),
    Product("RAIN-0200", "Rain jacket, three layers", 21_900, 90),
    Product("SHOE-0430", "Trail shoes, last pairs", 9_900, 5),
    Product("TEAS-0250", "Darjeeling, first flush, 250 g", 1_890, 2_000),
    Product("TOOL-0012", "Screwdriver, twelve bits", 2_790, 1_700),
    Product("WOOL-0050", "Merino yarn, 50 g", 790, 20_000),
)

#: All products by SKU.
CATALOGUE = {product.sku: product for product in _PRODUCTS}
