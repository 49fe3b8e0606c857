"""Plain portrait-photography English: what the tokenizer learns its pieces from, besides captions.

Without it, words that users type would fall apart into letters. Lists by theme, then phrases.
"""

from __future__ import annotations

THEMES = {
    "people": """
        person man woman people adult gentleman lady guy somebody human face head shoulders
        portrait selfie model sitter subject couple friend family colleague employee manager
        doctor teacher student engineer artist actor actress musician singer writer scientist
        chef nurse lawyer dancer athlete soldier pilot farmer king queen knight hero wizard
        explorer traveller someone individual girl boy""",
    "looks": """
        hair eyes eye nose mouth lips teeth smile smiling laughing serious neutral calm happy
        sad proud thoughtful confident friendly relaxed tired young old middle aged elderly
        beard moustache stubble shaved bald freckles wrinkles dimples eyebrows eyelashes skin
        cheeks chin jaw forehead ears ear neck curly straight wavy long short blond blonde brown
        black red grey gray silver white dark light fair ginger ponytail bun braid fringe make
        up makeup lipstick glasses sunglasses spectacles earrings necklace jewelry jewellery
        piercing tattoo hat cap scarf hood helmet crown expression gaze looking facing turned
        tilted""",
    "clothes": """
        suit jacket blazer shirt blouse dress coat sweater pullover hoodie t shirt tie bow
        collar uniform gown cloak armour armor leather wool linen cotton silk denim jeans formal
        casual elegant business smart wearing dressed clothes clothing outfit costume vest
        turtleneck fur lace button pocket sleeve tuxedo kimono""",
    "places": """
        background backdrop studio office room wall window street city park garden forest beach
        sea mountain desert field snow sky clouds night day sunset sunrise indoors outdoors
        library cafe restaurant kitchen bridge station car train boat castle church market
        museum school hospital laboratory stage theatre theater space stars moon rain fog mist
        trees leaves flowers grass water lake river island village home house door stairs
        bookshelf desk chair""",
    "light": """
        light lighting lit shadow shadows soft hard natural window daylight sunlight backlit rim
        key fill low high contrast bright dim dark glow golden hour blue hour warm cold cool
        neon candle lamp flash softbox spotlight silhouette rembrandt butterfly split dramatic
        moody ambient reflected diffuse even overcast exposure""",
    "photo": """
        photo photograph photography picture image snapshot headshot close up closeup cropped
        full half length wide angle lens macro telephoto camera film grain analog analogue
        digital vintage retro polaroid kodak fuji leica canon nikon bokeh blur blurred blurry
        sharp focus focused depth field shallow aperture shutter exposure iso frame framed
        centered centred composition background foreground professional amateur candid posed
        editorial magazine cover fashion passport visa identity document linkedin profile resume
        yearbook corporate wedding holiday birthday graduation high quality detailed resolution
        realistic photorealistic raw cinematic movie still poster studio plain simple clean
        minimal""",
    "art": """
        painting painted painterly oil watercolor watercolour acrylic pastel charcoal pencil ink
        drawing sketch illustration engraving etching print poster comic cartoon anime render
        rendering sculpture marble bronze statue mosaic fresco baroque renaissance impressionist
        expressionist cubist surreal pop art deco nouveau modern classic classical abstract
        style styled texture canvas brush strokes palette monochrome sepia tone toned duotone
        pastel saturated vivid muted faded colorful colourful color colour colors black white
        grey gray red green blue yellow orange purple pink brown beige gold silver turquoise
        teal navy cream ivory""",
    "glue": """
        a an the of in on at with without and or by for from to as is are was be being his her
        their its this that these those one two three very more most less slightly behind beside
        before front under over near next into through against between left right top bottom
        side up down not no only also same other new good bad best beautiful nice great small
        large big tall thin round square style looks like wearing taken shot made holding
        standing sitting walking""",
}
PHRASES = """
a photo of a person wearing a dark business suit in front of a blurred office
a studio portrait of a woman with long brown hair, soft light from the left
passport photo of a man, plain white background, neutral expression, facing the camera
a black and white portrait of a person, plain dark background, dramatic light
an oil painting of an old man with a grey beard
a close-up photo of a smiling woman with freckles and red hair
headshot for a resume, professional lighting, blurred background
a person in the style of a vintage film photo, warm light and grain
a candid photo of a person laughing outdoors at sunset
a portrait of a person with glasses, looking at the camera
a high quality photo, sharp focus, shallow depth of field, eighty five millimetre lens
a low key portrait, half of the face in shadow
a high key portrait, bright and airy, white background
a cold winter portrait, snow in the background, blue light
a watercolor portrait of a young man with curly hair
a portrait photo taken by the window on an overcast day
the face of a person looking to the right, green background
a photo of a person in the painted style
a rendering of a person in the black and white style
a good photo of one person, plain light grey background
blurry, low quality, deformed, distorted, bad anatomy, watermark, text, signature, cropped, ugly
extra fingers, two heads, duplicate, out of frame, disfigured, worst quality, jpeg artifacts
an actor on the red carpet in an elegant black dress, flash photography
a scientist in a laboratory, white coat, clean background
a musician on stage under neon light, purple and blue
a knight in silver armour in front of a castle, cinematic
a chef in a restaurant kitchen, warm light, natural expression
a traveller in the mountains wearing a hat and a scarf
an astronaut among the stars, science fiction movie still
a portrait in the style of a renaissance painting, golden light, dark background
a magazine cover portrait, fashion editorial, bold colours
a person with a serious expression wearing a leather jacket in a city street at night
a yearbook photo, blue backdrop, formal clothes
a linkedin profile picture of a confident person in a blazer
a selfie of a person at the beach, bright sunlight
a film noir portrait with hard light and deep shadows
a polaroid of two friends at a birthday party
a pencil drawing of a woman, side view, white paper
a bronze statue of a king in a museum
a family photo in the garden with flowers and trees
""".strip().splitlines()

# Words that say something about our pictures, or nearly do, and must not be drawn as noise.
TELLING = """black white grey gray painted painting painterly dark light warm cold key high low
    plain blur blurred blurry bright background office monochrome clean simple minimal passport visa
    identity document close up closeup headshot cropped"""
NOISE_WORDS = sorted(
    set(" ".join(v for k, v in THEMES.items() if k in {"clothes", "photo", "art"}).split())
    - set(TELLING.split())
)


# Styles (styles.py) after which nothing of the picture's own background is left.
REPLACES_BACKGROUND = {
    "plain white background",
    "plain light grey background",
    "plain dark background",
    "in front of a blurred office",
    "blurred background",
    "high key",
    "low key",
}


def corpus() -> list[str]:
    """Lines for the tokenizer: each theme's words (repeated, so that they merge) and phrases."""
    words = [" ".join(v.split()) for v in THEMES.values()]
    return words * 20 + PHRASES * 10
