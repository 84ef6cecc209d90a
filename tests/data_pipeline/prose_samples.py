"""Real sentences in several writing systems, which no filter may take for rubbish."""

CHINESE = (
    "训练一个语言模型，首先要准备大量干净的文本。原始网页里常常混着广告、导航栏和重复的段落，如果不加处理就直"
    "接使用，"
    "模型会把这些噪声也学进去。因此，数据清洗往往比模型结构更能决定最后的效果。常见的做法包括统一字符编码、"
    "去掉过短的行、"
    "过滤重复内容，以及按照质量打分。不过，每一步都应当记录删掉了多少文档、为什么删掉，否则出了问题就无从查起"
    "。"
    "对于中文来说，还要注意词与词之间没有空格，凡是按空格数词的规则都会把整段文字当成一个很长的词，从而误删好"
    "的文章。"
)
TRADITIONAL = (
    "臺灣的夏天又長又熱，傍晚常有一場大雨。雨停了以後，巷子裡的小吃攤陸續點起燈來，賣蚵仔煎的老闆一邊翻鍋一邊"
    "跟熟客聊天。"
    "小時候我最喜歡跟著外婆去夜市，她總是先買一杯青草茶，再慢慢地從街頭走到街尾。現在回想起來，那些平常的晚上"
    "反而記得最清楚。"
)
MIXED = (
    "我们用 PyTorch 2.11 训练了一个 LLaMA 风格的模型，hidden size 是 4096，一共 32 层。DeepSpeed 的 ZeRO-1 "
    "把优化器状态分到"
    "每张卡上，所以 8 张 H100 就够了。数据用 Arrow 格式保存，每个 shard 大约 256 MiB，读的时候直接 memory "
    "map，不需要额外的"
    "进程。需要注意的是，resume 之后 batch 的顺序必须和没有中断的时候完全一样，否则 loss 曲线就没法比较。"
)
JAPANESE = (
    "言語モデルを訓練するには、まず大量のきれいな文章を用意しなければならない。ウェブから集めた文書には広告や"
    "定型文が多く含まれて"
    "いるため、そのまま使うと質の低い出力につながる。そこで、短すぎる行を除き、同じ段落の繰り返しを見つけ、"
    "文字の種類の割合を調べる。"
    "日本語は単語の間に空白を置かないので、英語のための規則をそのまま当てはめてはいけない。"
)
THAI = (
    "การฝึกแบบจำลองภาษาต้องใช้ข้อความจำนวนมากที่สะอาดและหลากหลาย หากนำข้อความจากเว็บไซต์มาใช้โดยตรง แบบจำลองจ"
    "ะเรียนรู้โฆษณาและ"
    "เมนูที่ซ้ำกันไปด้วย ดังนั้นจึงต้องกรองเอกสารก่อน ภาษาไทยไม่เว้นวรรคระหว่างคำ กฎที่นับคำจากช่องว่างจึงใช้"
    "ไม่ได้"
)
KOREAN = (
    "언어 모델을 훈련하려면 먼저 깨끗한 글을 많이 모아야 한다. 웹에서 가져온 문서에는 광고와 반복되는 "
    "문장이 섞여 있어서 그대로 쓰면 "
    "결과가 나빠진다. 그래서 너무 짧은 줄을 버리고 같은 문단이 되풀이되는지 살펴보며 글자의 비율도 확인한다."
)
ARABIC = (
    "يحتاج تدريب نموذج لغوي إلى كمية كبيرة من النصوص النظيفة والمتنوعة. تحتوي صفحات الويب على إعلانات "
    "وقوائم متكررة، فإذا استخدمناها "
    "كما هي تعلم النموذج هذه الضوضاء أيضا. لذلك نحذف الأسطر القصيرة ونبحث عن الفقرات المكررة قبل أن نبدأ "
    "العمل."
)
HINDI = (
    "भाषा मॉडल को प्रशिक्षित करने के लिए बहुत सारा साफ़ पाठ चाहिए। वेब से लिए गए पन्नों में विज्ञापन "
    "और दोहराए गए वाक्य मिले रहते हैं, "
    "इसलिए उन्हें सीधे इस्तेमाल करने से परिणाम ख़राब हो जाते हैं। पहले छोटी पंक्तियाँ हटाई जाती हैं, "
    "फिर देखा जाता है कि कौन से अनुच्छेद दोहराए गए हैं।"
)
ENGLISH = (
    "Half of what ruins long runs is data: samples that are repeated or skipped after a resume, an order "
    "that changes "
    "with the number of machines, hours of work lost to a crash. Most of it is silent, and nobody notices "
    "until the "
    "loss of the new run cannot be compared with that of the old one.\n\nA careful pipeline counts what "
    "it throws "
    "away and says why. It keeps the text as it was written unless somebody asked for a change, and it "
    "gives the same "
    "bytes whether one process did the work or a hundred."
)
GERMAN = (
    "Die Donaudampfschifffahrtsgesellschaft ist ein beliebtes Beispiel für lange Wörter, doch im Alltag "
    "schreiben die "
    "Menschen kürzer. Wer Texte filtert, sollte deshalb auf den Durchschnitt achten und nicht auf einzelne "
    "Wörter, "
    "sonst gehen gute Absätze verloren, nur weil in ihnen von Geschwindigkeitsbegrenzungen die Rede ist."
)

PROSE = {
    "chinese": CHINESE,
    "traditional": TRADITIONAL,
    "mixed": MIXED,
    "japanese": JAPANESE,
    "thai": THAI,
    "korean": KOREAN,
    "arabic": ARABIC,
    "hindi": HINDI,
    "english": ENGLISH,
    "german": GERMAN,
}
