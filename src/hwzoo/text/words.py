"""The embedded data set: word tasks whose answers the package `inflect` gives, without any download."""

from functools import cache

NOUNS = """
    ability accident account actor address adult advice age agency agent air airport alley aluminium ambulance
    analysis anchor angel angle animal ankle answer ant apple apron arch archer area arm army arrow art artist ash
    aunt author axis baby back badge bag baker ball balloon banana band bank banner barn basis basket bat bath
    battery bay beach bear beard beast beauty bed bee belief bell belt bench berry bird birth blade blanket block
    boat body bone book boot border boss bottle bowl box boy brain branch brass bread breath brick bridge broom
    brother brush bubble bucket bus bush butcher butter button cabin cactus cage cake calf camel camera camp canal
    candle candy canoe canyon captain car card career cargo carpet carriage carrot case castle cat cattle cause cave
    cellar century chain chair chalk chapter charity check cheek cheese chef cherry chest chicken chief child
    chimney choice church cinema circle circus city class clay clock cloth cloud clown coach coal coast coat code
    coffee coin collar colony colour column comb comedy company compass copy corner cottage cotton couch country
    county couple court cousin cow crab cradle crane crate creature crisis criterion crop cross crow crowd crown cry
    cup curtain curve customer daisy dance danger date daughter day deer degree desk diagnosis diary dictionary
    dinner dish doctor dog doll donkey door dragon drawer dream dress driver drum duck duty eagle ear earth echo
    edge egg elbow elephant elf enemy engine essay evening exam example eye face fact factory fairy family farmer
    father feather fence ferry field finger fire fish flag flame fleet flower fly focus foot forest fork formula
    fortress fountain fox frame friend frog fruit fungus galaxy gallery game garden gate giant gift giraffe girl
    glass glove goal goat gold goose government grape grass grocery group guess guest guide guitar habit half hammer
    hand harbour hat hawk head heart hero hill history hobby holiday home honey hoof horse hospital host hotel hour
    house hunter hypothesis ice idea index injury insect island jacket jar jelly jewel job joke journey judge juice
    jury key kidney king kiss kitchen kite knee knife knight knot lady lake lamb lamp language laugh law leaf leg
    lemon lens letter library life light lily lion lip list loaf lobby log louse luck lunch machine man map market
    marsh mask match mattress meadow medal melody memory mess minute mirror monkey month moon mother motor mountain
    mouse mouth museum mushroom nation neck needle neighbour nephew nest niece night nose notch nucleus nurse nut
    oasis ocean office onion orchard ox oven owl page paint palace pan paper parent park party patch path patient
    peach pen penny person phase phenomenon phone photo piano pig pilot pitch place plan plane plant plate pocket
    poet pony porch potato princess prize problem proof puppy quality queen question quiz rabbit radio radius
    railway rash ray reef river road robot roof room rose ruby ruler sandwich scarf school sea self series shadow
    sheep shelf ship shoe shop shore sister sketch skirt sky snake sock soldier son song spider spoon spy stadium
    star station stimulus stitch stone storm story stove street stress student studio sun supply swan switch
    syllabus table tail tax teacher tent theory thesis thief throat ticket tiger title toe tomato tooth torch tower
    town toy tray tree trench truth turkey uncle valley veto video village virus volcano voyage wage wall watch
    watchman wave way wedding week wheel whip wife window wing winner wish witch wolf woman wood word worker world
    worm wrist yacht year zebra zoo
"""
VERBS = """
    accept act add admire admit advise agree aim allow amuse answer appear apply argue arrange arrive ask attack
    bake balance ban bathe battle be beat beg begin behave belong bet bite blame bless blow boast boil bomb borrow
    bounce bow brake break breathe bring brush build burn bury buy calculate call camp care carry carve catch cause
    challenge change charge chase cheat check cheer chew choose chop claim clap clean clear climb close coach
    collect come comb command compare compete complain complete confess connect consider contain copy correct cough
    count cover crack crash crawl cross crush cry cure curl cut cycle damage dance dare decay deceive decide
    decorate defend delay deliver depend describe destroy develop die dig disagree disappear discover divide do
    double drag drain draw dream dress drink drip drive drop drown drum dry dust dye eat educate employ empty enjoy
    enter escape examine excite exist expand explain explode face fade fail fall fancy fasten fax fear feed feel
    fence fight fill film find fire fit fix flap flash flee float flood flow flower fly fold follow forbid force
    forget forgive form free freeze frighten fry gather gaze get give glow glue go grab grate grease greet grin grip
    grow guard guess guide hammer hand handle hang happen harm hate haunt have heal heap hear heat help hide hit
    hold hook hop hope hover hug hum hunt hurry hurt identify ignore imagine improve include increase inform inject
    intend invent invite iron itch jail jam jog join joke judge juggle jump keep kick kill kiss kneel knit knock
    know label land laugh launch lay lead learn leave lend let lick lie lift light like list listen live load lock
    long look lose love make manage march mark marry match mate matter measure meet melt mend mix moan move mug
    multiply murder nail name need nest nod notice number obey object observe obtain offer open order owe own pack
    paddle paint park part pass paste pat pause pay peel permit pick pinch place plan plant play please plug point
    poke polish pop possess post pour practise pray prefer prepare present press prevent prick print produce program
    promise protect provide pull pump punch punish push put question queue quit race rain raise reach read realise
    receive refuse regret reign rejoice relax release remain remember remind remove repair repeat replace reply
    report rescue retire return rhyme ride ring rinse rise risk rob rock roll rot rub ruin rule run rush sail save
    saw say scare scratch scream screw scrub seal search see sell send serve set settle sew shake share shave shine
    shiver shock shoot shop show shrink shut sigh sign signal sin sing sink sip sit skip slap sleep slip slow smash
    smell smile smoke snatch sneeze snore snow soak spare speak spell spend spill spin spoil spot spray spread
    squash squeeze stain stamp stand stare start stay steal steer step stick sting stir stop strap strengthen
    stretch strike strip stroke stuff suck suffer suggest suit supply support suppose surprise surround suspect
    swear sweep swim swing switch take talk tame tap taste teach tear tease telephone tell tempt test thank think
    throw tickle tie time tip tire touch tour tow trace trade train transport trap travel treat tremble trick trip
    trot trouble trust try tug tumble turn twist type undress unite unlock untie use vanish visit wail wait walk
    wander want warm warn wash waste watch water wave wear weigh welcome whine whip whirl whisper whistle win wink
    wipe wish wonder work worry wrap wreck wrestle write yawn yell zip zoom
"""
NUMBERS = range(2000)


@cache
def word_rows() -> list[dict[str, str]]:
    """
    Rows of `task`, `source` and `target`: `plural` of NOUNS, `participle` (the present one) of VERBS, `number` (in
    words) and `ordinal` of NUMBERS. The targets are inflect's, its few errors too (thief: thiefs).
    """
    import inflect  # takes 3 s

    engine = inflect.engine()
    kinds = {
        "plural": (NOUNS.split(), engine.plural_noun),
        "participle": (VERBS.split(), engine.present_participle),
        "number": (map(str, NUMBERS), engine.number_to_words),
        "ordinal": (map(str, NUMBERS), engine.ordinal),
    }
    return [
        {"task": task, "source": source, "target": str(inflected(source))}
        for task, (sources, inflected) in kinds.items()
        for source in sources
    ]
