"""Patterns, in English, of what the categories are about. One word alone is seldom enough: rules look for a word with
what is done, to whom, by whom.

Patterns are matched against text in lower case with plain quotes. What a rule can match is short (`REACH`), so long
texts are looked at in pieces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ostro.server.moderation.categories import DANGEROUS, FINANCIAL, HATE, HEALTH, LAW, SELF_HARM, SEXUAL, VIOLENCE

# No pattern looks at more characters than this at once; a test measures them.
REACH = 240


@dataclass(frozen=True)
class Rule:
    """needs: words of which one is in every text that matches; they spare most texts the pattern.

    also: OpenAI's names for the same. weight: how sure a match makes it, in [0, 1].
    """

    category: str
    weight: float
    needs: frozenset[str]
    pattern: re.Pattern[str]
    also: tuple[str, ...] = ()


def _rule(category: str, weight: float, needs: str, pattern: str, *also: str) -> Rule:
    return Rule(category, weight, frozenset(needs.split()), re.compile(pattern.format(**_PARTS)), also)


# A few words in between, none of which turns the meaning round.
_GAP = (
    r"(?:\s{1,8}(?!(?:not|never|prevent\w{0,12}|avoid\w{0,12}|stop|stopping|detect\w{0,12}|report\w{0,12}|spot"
    r"|block\w{0,12}|fight\w{0,12}|against|from"
    r"|defend\w{0,12}|protect\w{0,12}|survive|recognis\w{0,12}|recogniz\w{0,12})\b)[\w'-]{1,24},?){0,%d}\s{1,8}"
)
_PARTS = {
    "i_will": r"\bi(?:'ll| will| am going to| am gonna|'m going to|'m gonna| want to| wanna| swear i'll)",
    "how": r"\b(?:how (?:to|do i|do you|do we|can i|can we|could i|would i|would you|should i)"
    r"|(?:tell|show|teach) me (?:how )?to|(?:steps|instructions|recipe|guide|tutorial) (?:to|for|on)"
    r"|help me(?: to)?|i (?:want|need) to)",
    "person": r"(?:you|him|her|them|everyone|everybody|somebody|someone|(?:my|your|his|her|their|the|a|that|this)"
    r" (?:\w{2,12} )?(?:boss|wife|husband|girlfriend|boyfriend|partner|neighbou?rs?|teacher|coworkers?|colleagues?"
    r"|mother"
    r"|father|mom|dad|parents|brother|sister|child|children|kids?|family|classmates|ex|landlord|man|woman|person"
    r"|people|cop|judge))",
    "group": r"(?:jew(?:s|ish people)|muslims?|christians?|hindus?|black people|blacks|white people|asians?"
    r"|asian people"
    r"|arabs?|africans?|mexicans?|immigrants?|migrants?|refugees?|foreigners|gays|gay people|lesbians?|homosexuals"
    r"|trans(?:gender)? people|women|girls|disabled people|roma|gypsies)",
    "gap": _GAP % 3,
    "gap5": _GAP % 5,
}

RULES: tuple[Rule, ...] = (
    _rule(
        SEXUAL,
        0.7,
        "porn porno pornography pornographic hentai blowjob handjob milf",
        r"\b(?:porn|porno|pornography|pornographic|hentai|blowjob|handjob|milf)\b(?!\W{{1,3}}(?:filter|blocker"
        r"|addiction))",
    ),
    _rule(
        SEXUAL,
        0.8,
        "sex sexual erotic explicit nsfw smut",
        r"\b(?:write|tell|give|describe|show|continue|roleplay)\b{gap5}(?:(?:erotic|smut|nsfw)\b"
        r"|(?:explicit|graphic|hot|steamy) sex(?:ual)?\b|sex (?:scene|story|chat)\b)",
    ),
    _rule(
        SEXUAL,
        0.8,
        "nudes nude naked",
        r"\b(?:send|show|share|post)\b{gap}(?:nudes\b|(?:nude|naked) (?:photos?|pics?|pictures?|images?|videos?"
        r"|selfies?)\b)",
    ),
    _rule(
        SEXUAL,
        0.8,
        "fuck horny masturbate masturbating orgasm",
        r"{i_will} fuck (?:you|him|her)\b(?! (?:over|up))|\bi'?m so horny\b|\b(?:watch|make) (?:me|you|her|him) "
        r"(?:masturbat\w{{1,24}}|orgasm)\b",
    ),
    _rule(
        SEXUAL,
        0.95,
        "child children minor minors underage teen teens schoolgirl kids",
        r"\b(?:sexual|sexy|nude|naked|erotic|porn\w{{0,12}}) (?:\w{{1,24}} ){{0,2}}(?:child|children|minors?|underage"
        r"|schoolgirls?|kids)\b"
        r"(?! (?:abuse prevention|protection))|\b(?:child|underage|minor|teen) (?:porn\w{{0,12}}|nudes?|sex)\b"
        r"(?! (?:laws?|prevention|education|offen[cs]es?))",
        "sexual/minors",
    ),
    _rule(
        HATE,
        0.9,
        "vermin subhuman subhumans animals parasites inferior filth scum cockroaches disease trash",
        r"\b(?:all |those |these |the )?{group} (?:are|is) (?:all |just |nothing but |a |an ){{0,4}}(?:vermin"
        r"|subhumans?"
        r"|animals"
        r"|parasites|inferior|filth|scum|cockroaches|disease|trash)\b",
        "hate",
    ),
    _rule(
        HATE,
        0.95,
        "kill exterminate gas deport exterminated killed lynched eradicate eradicated",
        r"\b(?:kill|exterminate|gas|eradicate) (?:all )?(?:the |those |these )?{group}\b"
        r"|\b{group} (?:should|must|need to|deserve to) (?:all )?(?:be )?(?:killed|exterminated|eradicated|lynched"
        r"|die)\b",
        "hate",
        "hate/threatening",
        "violence",
    ),
    _rule(
        HATE,
        0.8,
        "hate despise",
        r"\bi (?:really |just |fucking )?(?:hate|despise) (?:all |those |these |the )?{group}\b(?!'s)",
        "hate",
    ),
    _rule(
        HATE,
        0.7,
        "country",
        r"\bgo back to (?:your|their|his|her) (?:own )?country\b",
        "hate",
        "harassment",
    ),
    _rule(
        HATE,
        0.6,
        "belong vote hire hired trusted lazy thieves criminals stupid",
        r"\b(?:women|girls) belong in the kitchen\b|\b(?:never|don't|do not|shouldn't|should not) (?:hire"
        r"|trust) {group}\b"
        r"|\b(?:all|those|these) {group} are (?:all )?(?:lazy|thieves|criminals|stupid)\b",
        "hate",
    ),
    _rule(
        VIOLENCE,
        0.9,
        "kill murder stab strangle behead slaughter execute",
        r"{i_will} (?:\w{{1,24}} )?(?:kill|murder|stab|strangle|behead|slaughter|execute) {person}\b",
        "violence",
        "harassment/threatening",
        "harassment",
    ),
    _rule(
        VIOLENCE,
        0.8,
        "shoot hurt beat burn break punch",
        r"{i_will} (?:shoot {person}\b(?! (?:an?|the|some|over|a quick) ?(?:e-?mail|mail|message|text|note|reply"
        r"|dm|link"
        r"|line|photo|picture|video)?\b)|shoot (?:up|at) \w{{1,24}}|hurt (?:you|him|her|them)\b|beat (?:you|him|her"
        r"|them) (?:up|to death)\b"
        r"|(?:burn|blow up) (?:your|his|her|their) (?:house|home|car)\b|break (?:your|his|her|their) (?:legs?|neck"
        r"|bones|face)\b"
        r"|punch (?:you|him|her|them)\b)",
        "violence",
        "harassment/threatening",
    ),
    _rule(
        VIOLENCE,
        0.9,
        "kill murder poison strangle assassinate",
        r"{how} (?:kill|murder|poison|strangle|assassinate) {person}\b",
        "violence",
        "illicit/violent",
    ),
    _rule(
        VIOLENCE,
        0.75,
        "die dead",
        r"\b(?:i hope|hope) you (?:die|drop dead)\b|\byou (?:deserve|ought|should) to die\b"
        r"|\bgo (?:and )?die\b(?= |$|[.!])"
        r"(?! (?:laughing|of))|\byou(?:'re| are) (?:a )?dead (?:man|meat|woman)\b",
        "harassment",
        "harassment/threatening",
    ),
    _rule(
        VIOLENCE,
        0.4,
        "decapitate decapitated dismember dismembered disembowel disembowelled beheaded beheading gore mutilated",
        r"\b(?:decapitated?|dismembere?d?|disembowel(?:led)?|behead(?:ed|ing)|mutilated|gore (?:video|pictures"
        r"|scene))\b",
        "violence",
        "violence/graphic",
    ),
    _rule(
        VIOLENCE,
        0.6,
        "idiot moron worthless loser pathetic stupid ugly",
        r"\byou(?:'re| are) (?:such |just |all |nothing but )?(?:an? )?(?:\w{{1,24}} )?(?:worthless|pathetic"
        r"|disgusting)?"
        r" ?(?:idiot|moron|loser|piece of (?:shit|garbage|trash))\b",
        "harassment",
    ),
    _rule(
        DANGEROUS,
        0.9,
        "bomb bombs explosive explosives molotov ied napalm grenade detonator",
        r"{how}(?: (?:make|build|construct|assemble|create|mix|prepare|plant|detonate|buy|get))?{gap}(?:(?:pipe "
        r"|nail |car |home-?made )?"
        r"(?<!bath )(?<!photo )(?<!glitter )(?<!seed )(?<!logic )(?<!cherry )(?<!zip )(?<!fork )bombs?\b"
        r"(?! (?:calorimeter|shelter|cyclone|squad|disposal|threat response))|explosives?\b(?! (?:growth|start"
        r"|power|training))"
        r"|molotov\b|ied\b|napalm\b|grenades?\b|detonators?\b)",
        "illicit",
        "illicit/violent",
    ),
    _rule(
        DANGEROUS,
        0.9,
        "meth methamphetamine heroin fentanyl cocaine lsd mdma ricin sarin anthrax crack",
        r"{how} (?:make|cook|synthesi[sz]e|produce|buy|get|sell|smuggle|extract|brew"
        r"|obtain){gap}?\s{{0,8}}(?:crystal )?(?:meth|methamphetamine"
        r"|heroin|fentanyl|cocaine|crack cocaine|lsd|mdma|ricin|sarin|anthrax)\b",
        "illicit",
    ),
    _rule(
        DANGEROUS,
        0.8,
        "gun guns silencer firearm firearms rifle weapon weapons",
        r"{how} (?:make|build|print|3d print|buy|get|smuggle|obtain){gap}?\s{{0,8}}(?:ghost guns?|silencer"
        r"|(?:untraceable|unregistered|illegal"
        r"|automatic) (?:guns?|firearms?|rifles?|weapons?))\b",
        "illicit",
        "illicit/violent",
    ),
    _rule(
        DANGEROUS,
        0.8,
        "ransomware keylogger malware botnet phishing ddos trojan virus",
        r"{how} (?:write|make|create|build|code|deploy|spread|launch|run|set up|start|ddos){gap}?\s{{0,8}}(?:ransomware"
        r"|keylogger|malware"
        r"|botnet|phishing (?:site|page|mail|email|campaign|kit)|ddos(?: attack)?|trojan"
        r"|computer virus)\b(?! (?:scanner|filter"
        r"|detector|protection|analysis|simulation|test|training))",
        "illicit",
    ),
    _rule(
        DANGEROUS,
        0.8,
        "hack steal crack break",
        r"{how} (?:hack|break|get) into (?:\w{{1,24}}'s|someone(?: else)?'?s?|somebody'?s?|his|her|their"
        r"|another) (?:\w{{1,24}} ){{0,2}}(?:account|phone|computer"
        r"|e-?mail|facebook|instagram|wi-?fi|network|house|car|bank)\b|{how} (?:hack|steal) (?:\w{{1,24}}'s |a "
        r"|an |his "
        r"|her |their |someone'?s? |people'?s? )"
        r"(?:\w{{1,24}} ){{0,2}}(?:car|bike|credit cards?|identity|identities|passwords?|bank accounts?|accounts?|phone"
        r"|wallet)\b",
        "illicit",
    ),
    _rule(
        DANGEROUS,
        0.8,
        "launder laundering counterfeit shoplift forge evade smuggle blackmail kidnap",
        r"{how} (?:launder (?:\w{{1,24}} ){{0,2}}(?:money|cash)|(?:make|print|use|buy|pass) counterfeit"
        r"|counterfeit (?:money|bills|notes|passports?)"
        r"|shoplift|forge (?:an? |my |\w{{1,24}} )?(?:passport|signature|prescription|id|documents?)"
        r"|evade (?:\w{{1,24}} )?tax(?:es)?"
        r"|smuggle (?:\w{{1,24}} )?(?:people|drugs|weapons|guns)|blackmail {person}|kidnap {person})\b",
        "illicit",
    ),
    _rule(
        DANGEROUS,
        0.7,
        "stolen fake",
        r"\b(?:buy|sell|get|order) (?:\w{{1,24}} ){{0,2}}(?:stolen (?:credit cards?|cards?|accounts?|passports?|goods)"
        r"|fake (?:passports?|ids?|driving"
        r" licen[cs]es?|prescriptions?|money))\b",
        "illicit",
    ),
    _rule(
        SELF_HARM,
        0.95,
        "kill end die hurt cut",
        r"{i_will} (?:\w{{1,24}} )?(?:kill myself\b(?! laughing)|end my (?:own )?life\b|end it all\b|hurt myself\b"
        r"|cut myself\b(?! (?:some|a) )"
        r"|die\b(?! (?:my|laughing|of (?:laughter|embarrassment|boredom)|in (?:peace|my sleep)|happy|trying|on)))",
        "self-harm",
        "self-harm/intent",
    ),
    _rule(
        SELF_HARM,
        0.9,
        "live alive suicidal suicide",
        r"\bi (?:don't|do not|dont) (?:want|wanna) (?:to )?(?:live|be alive|exist) any ?more\b|\bi(?:'m| am| feel"
        r"|'ve been| have been) (?:feeling )?"
        r"suicidal\b|\bi(?:'m| am|'ve been| have been| keep) (?:thinking (?:about|of)|considering"
        r"|planning) (?:my )?suicide\b"
        r"|\bi (?:want|am going|plan|'m going) to commit suicide\b",
        "self-harm",
        "self-harm/intent",
    ),
    _rule(
        SELF_HARM,
        0.9,
        "myself noose overdose suicide",
        r"{how} (?:kill myself|hang myself|tie a noose|overdose on \w{{1,24}}|commit suicide|die by suicide|hurt myself"
        r"|harm myself)\b",
        "self-harm",
        "self-harm/instructions",
    ),
    _rule(
        SELF_HARM,
        0.9,
        "kys yourself",
        r"\bkys\b|\b(?:go |just |you should |please )(?:and )?(?:kill|hang) yourself\b",
        "self-harm",
        "harassment",
    ),
    _rule(
        HEALTH,
        0.7,
        "dose dosage mg milligrams pills tablets",
        r"\bwhat(?:'s| is)? (?:the )?(?:right |correct |safe |maximum )?(?:dose"
        r"|dosage)\b[^.?!]{{0,60}}\b(?:should i|for me|can i|my)\b"
        r"|\bhow (?:many|much) (?:\w{{1,24}} ){{0,3}}(?:mg|milligrams|pills|tablets)?\s?(?:of \w{{1,24}} )?(?:should"
        r"|can) i (?:take|give)\b",
    ),
    _rule(
        HEALTH,
        0.7,
        "medication medicine meds insulin antidepressants antibiotics pills statins",
        r"\b(?:should|can|could|may) i (?:stop|start|quit|skip|double|increase|reduce|mix|combine"
        r"|keep)(?: taking)? (?:my |the |with )?(?:\w{{1,24}} )?"
        r"(?:medication|medicine|meds|insulin|antidepressants|antibiotics|pills|statins)\b",
    ),
    _rule(
        HEALTH,
        0.7,
        "diagnose cancer diabetes symptoms stroke depression pneumonia appendicitis lump rash",
        r"\bdiagnose (?:me|my|this)\b(?! (?:code|script|program|server|network|error|bug|pc|computer|car))|\b(?:do"
        r"|could|might) i have (?:a |an )?(?:\w{{1,24}} )?"
        r"(?:cancer|diabetes|stroke|depression|pneumonia|appendicitis)\b|\bwhat (?:disease|illness"
        r"|condition) do i have\b"
        r"|\b(?:i have|i've got|i found) (?:a|an|this) (?:\w{{1,24}} )?(?:lump|rash)\b[^.!]{{0,80}}\?",
    ),
    _rule(
        FINANCIAL,
        0.7,
        "stock stocks share shares bitcoin crypto etf etfs bonds ethereum funds",
        r"\b(?:should|shall) (?:i|we) (?:buy|sell|short|hold|invest in"
        r"|put my \w{{1,24}} in(?:to)?) (?:\w{{1,24}} ){{0,3}}(?:stocks?(?! photos?| images?| footage)|shares"
        r"|bitcoin|crypto|etfs?|bonds|ethereum|funds)\b|\bwhich (?:stocks?|shares|crypto|etfs?|funds) should i\b",
    ),
    _rule(
        FINANCIAL,
        0.7,
        "savings pension retirement mortgage inheritance money 401k",
        r"\b(?:how|where) (?:should|do|can) i (?:best )?invest my\b|\bwhat should i do with my (?:savings|pension"
        r"|inheritance|401k)\b"
        r"|\bshould i (?:refinance|remortgage|cash out) my\b|\b(?:should|can) i (?:put"
        r"|invest) (?:all )?my (?:savings|pension|retirement|money|inheritance)\b",
    ),
    _rule(
        LAW,
        0.7,
        "sue plead lawsuit settlement liable custody",
        r"\b(?:can|could|should) i sue\b|\bshould i (?:plead|accept the settlement|take the plea)\b"
        r"|\bam i (?:\w{{1,24}} )?liable\b"
        r"|\b(?:will|would|can) i (?:win|lose) (?:\w{{1,24}} )?(?:lawsuit|custody|my case)\b",
    ),
    _rule(
        LAW,
        0.7,
        "legal legally contract landlord will court arrested",
        r"\bis it legal for me to\b|\bcan i legally\b|\b(?:draft|write) my (?:last )?will\b|\bcan my (?:landlord"
        r"|employer|boss) (?:legally )?(?:evict|fire|sue|force)\b"
        r"|\bwhat should i say (?:in|to the) (?:court|judge|police)\b",
    ),
)
