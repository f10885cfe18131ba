"""How people ask, in English and Chinese: wordings to train on, and others that only validation asks with."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ostro.training.senses.scenes import Language


@dataclass(frozen=True)
class Wordings:
    """Of one question in one language. held: never trained on. Fields in braces are filled in."""

    trained: tuple[str, ...]
    held: tuple[str, ...]

    def draw(self, rng: random.Random, *, held: bool = False, **fields: str) -> str:
        return rng.choice(self.held if held else self.trained).format(**fields)


def asked(rng: random.Random, language: Language, text: str) -> str:
    """With or without a capital and a mark at the end, as people type."""
    if language == "en" and rng.random() < 0.5:
        text = text[:1].upper() + text[1:]
    ends = ("", "", "?", ".") if language == "en" else ("", "", "？", "。")
    return text if text[-1:] in "?？.。" else text + rng.choice(ends)


QUESTIONS: dict[str, dict[Language, Wordings]] = {
    "describe": {
        "en": Wordings(
            (
                "describe this image", "describe the image", "describe this picture", "describe what you see",
                "what do you see", "what is shown here", "what does the image show", "give a description of the image",
                "please describe the picture", "caption this image", "tell me what is in the image", "describe",
            ),
            ("what can be seen in this picture", "give this image a caption", "please tell me what you see here"),
        ),
        "zh": Wordings(
            (
                "描述这张图片", "请描述这张图片", "描述一下这张图片", "描述图片", "你看到了什么", "图片里有什么",
                "这张图片显示了什么", "说说这张图片", "请描述图中的内容", "描述这幅图",
            ),
            ("请说明图片的内容", "这幅图里能看到什么", "给这张图片写一句描述"),
        ),
    },
    "what is it": {
        "en": Wordings(
            (
                "what is this", "what is in this image", "what is in the picture", "what is it", "what is on the photo",
                "what kind of thing is this", "which object is in the image", "name what is in the picture",
                "classify this image", "what does this photo show", "identify the object", "what am I looking at",
            ),
            ("which thing is on this photo", "can you name the object in this picture", "what would you call this"),
        ),
        "zh": Wordings(
            (
                "这是什么", "图片里是什么", "图中是什么东西", "照片上是什么", "这张照片里是什么", "给这张图片分类",
                "说出图中的物体", "这个东西是什么", "识别图中的物体",
            ),
            ("照片里的东西叫什么", "请问这是什么东西", "图上画的是什么"),
        ),
    },
    "what": {
        "en": Wordings(
            (
                "what is {place}", "what do you see {place}", "what is there {place}", "which thing is {place}",
                "what is shown {place}", "name what is {place}", "what is the photo {place} of",
            ),
            ("{place}, what is that", "tell me what stands {place}"),
        ),
        "zh": Wordings(
            ("{place}是什么", "{place}有什么", "{place}的照片是什么", "{place}是什么东西", "请问{place}是什么"),
            ("看{place}，那是什么", "说出{place}的东西"),
        ),
    },
    "where": {
        "en": Wordings(
            (
                "where is the {name}", "where do you see the {name}", "in which place is the {name}",
                "where can I find the {name}", "where is there {one}", "find the {name}", "where are the {many}",
            ),
            ("on which side is the {name}", "can you locate the {name}"),
        ),
        "zh": Wordings(
            ("{name}在哪里", "哪里有{name}", "{name}在哪儿", "{name}在什么位置", "找到{name}"),
            ("请指出{name}的位置", "{name}在图片的什么地方"),
        ),
    },
    "how many": {
        "en": Wordings(
            (
                "how many {many} are there", "how many {many} do you see", "count the {many}", "how many {many}",
                "how many {many} are in the picture", "what is the number of {many}", "how many photos of {many}",
            ),
            ("tell me how many {many} there are", "how often is there {one}"),
        ),
        "zh": Wordings(
            ("有几个{name}", "图里有几个{name}", "{name}有几个", "有多少个{name}", "数一数{name}"),
            ("请数出{name}的数量", "一共有多少{name}"),
        ),
    },
    "how many photos": {
        "en": Wordings(
            (
                "how many photos are there", "how many pictures are there", "how many photos do you see",
                "count the photos", "how many photos are on the grid", "how many things are there",
            ),
            ("of how many photos is this made", "tell me the number of pictures"),
        ),
        "zh": Wordings(
            ("有几张照片", "一共有几张照片", "图里有几张照片", "有多少张照片", "数一数照片"),
            ("这是由几张照片组成的", "请说出照片的数量"),
        ),
    },
    "is there": {
        "en": Wordings(
            (
                "is there {one}", "is there {one} in the picture", "do you see {one}", "can you see {one}",
                "are there any {many}", "is any of these {one}", "is {one} in the image",
            ),
            ("does the image show {one}", "would you say that there is {one}"),
        ),
        "zh": Wordings(
            ("有{name}吗", "图里有{name}吗", "有没有{name}", "你看到{name}了吗", "图片里有没有{name}"),
            ("能看到{name}吗", "这里面是不是有{name}"),
        ),
    },
    "digit": {
        "en": Wordings(
            (
                "what digit is spoken", "which digit is spoken", "what digit do you hear", "which number is said",
                "what number is spoken", "what is the digit", "what number do you hear", "which digit is this",
                "name the digit that is spoken", "what was said", "what digit is it", "listen and tell me the digit",
                "which digit do you hear", "which number do you hear", "which number is this", "tell me what was said",
                "tell me the number that is spoken", "which digit does the speaker say", "what number is in the sound",
            ),
            ("which number can be heard", "tell me the digit in this recording", "what numeral does the speaker say"),
        ),
        "zh": Wordings(
            (
                "说的是哪个数字", "听到的是哪个数字", "这是什么数字", "说的是什么数字", "你听到了哪个数字",
                "录音里是哪个数字",
                "请说出听到的数字", "念的是几", "说的是几",
                "录音里的人说了什么数字", "听录音，说的是几", "请问说的是哪个数字", "读的是什么数字", "录音说了几",
            ),
            ("录音中的人说了哪个数字", "听一听，是几", "请问读的是什么数字"),
        ),
    },
    "same": {
        "en": Wordings(
            (
                "is it the same number that you hear and read: {shown}",
                "do you hear and read the same number: {shown}",
                "is the spoken number the same as the written one: {shown}", "is the number that you hear {shown}",
                "does the sound say {shown}", "is {shown} what is said", "hear and read, are they the same: {shown}",
                "is the spoken digit {shown}",
            ),
            ("the text says {shown}, does the voice say so too", "compare what you hear with this number: {shown}"),
        ),
        "zh": Wordings(
            (
                "听到的和看到的是同一个数字吗：{shown}", "听到的数字和写的一样吗：{shown}", "你听到的是{shown}吗",
                "说的是{shown}吗", "声音和文字是同一个数字吗：{shown}", "听到的数字是不是{shown}",
            ),
            ("文字写的是{shown}，声音说的也是吗", "请比较听到的数字和这个数字：{shown}"),
        ),
    },
    "series": {
        "en": Wordings(
            (
                "what does the series do", "what do the numbers do", "how does the series behave",
                "describe the series",
                "what happens in the series", "what kind of series is this", "what do the readings do",
                "how do the values change", "what is the trend", "classify the series",
            ),
            ("what is going on with these values", "tell me how these readings develop"),
        ),
        "zh": Wordings(
            (
                "这个序列怎么变化", "这些数字怎么变化", "描述这个序列", "序列的趋势是什么", "数据怎么变化",
                "这是什么样的序列",
                "读数怎么变化", "这些数值在做什么",
                "这组数据怎么变化", "数值的走向是什么", "说明这个序列", "这组数字怎么样",
                "读数发生了什么变化", "序列在做什么",
            ),
            ("请说明这些数据的走势", "这组读数发生了什么"),
        ),
    },
    "intent": {
        "en": Wordings(
            (
                "what does the customer want: {text}", "what does the customer want? {text}",
                "what is the intent of the customer: {text}", "name the intent: {text}",
                "which intent is this: {text}", "{text} What does the customer want?",
                "what is this customer asking: {text}",
                "classify the customer's question: {text}",
            ),
            ("a customer writes: {text} What is it about?", "find out what this customer needs: {text}"),
        ),
        "zh": Wordings(
            (
                "客户想要什么：{text}", "这位客户想要什么：{text}", "客户的意图是什么：{text}",
                "说出客户的意图：{text}",
                "客户需要什么：{text}", "给客户的问题分类：{text}", "{text} 客户想要什么？",
            ),
            ("一位客户写道：{text} 他想做什么？", "请判断客户的需求：{text}"),
        ),
    },
}  # fmt: skip

# Plurals that are no "s" behind, and what Chinese questions call the classes of the photos that we know.
_PLURALS = {"deer": "deer", "sheep": "sheep", "fish": "fish", "mouse": "mice", "bus": "buses"}
CHINESE = {
    "airplane": "飞机", "automobile": "汽车", "bird": "鸟", "cat": "猫", "deer": "鹿", "dog": "狗", "frog": "青蛙",
    "horse": "马", "ship": "船", "truck": "卡车",
}  # fmt: skip
# Places as questions name them: the answers' names, and shorter ones.
_SHORTER = {"on the ": "", "at the ": "", "in the ": ""}


def plural(name: str) -> str:
    return _PLURALS.get(name, f"{name}s")


def place_in_question(rng: random.Random, name: str) -> str:
    """ "at the top left" as it is or as "top left"."""
    for long, short in _SHORTER.items():
        if name.startswith(long) and rng.random() < 0.5:
            return short + name.removeprefix(long)
    return name


def name_in_question(rng: random.Random, name: str, language: Language) -> str:
    """Chinese questions call a class by its Chinese name or by that of the data set."""
    if language == "zh":
        return CHINESE[name] if name in CHINESE and rng.random() < 0.7 else f" {name} "
    return name


# What the answers of other tasks say in Chinese; photos, digits and intents keep the data set's names.
SIGNALS_ZH = {
    "steady": "平稳", "rising": "上升", "falling": "下降", "oscillating": "振荡", "spike": "尖峰",
    "step up": "阶跃上升",
    "step down": "阶跃下降", "noisy burst": "突发噪声",
}  # fmt: skip
DIGITS_ZH = ("零", "一", "二", "三", "四", "五", "六", "七", "八", "九")
