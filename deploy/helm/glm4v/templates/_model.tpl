{{- define "glm4v.modelVolumes" -}}
{{- $model := .Values.model }}
{{- if eq $model.volume "persistentVolumeClaim" }}
- name: model
  persistentVolumeClaim: {claimName: {{ $model.persistentVolumeClaim | quote }}, readOnly: true}
{{- else if eq $model.volume "hostPath" }}
- name: model
  hostPath: {path: {{ $model.hostPath | quote }}, type: Directory}
{{- else if eq $model.volume "image" }}
- name: model
  image: {reference: {{ $model.image | quote }}, pullPolicy: {{ .Values.image.pullPolicy }}}
{{- end }}
{{- with $model.checksumHostPath }}
- name: checksums
  hostPath: {path: {{ . | quote }}, type: Directory}
{{- end }}
{{- end -}}

{{- define "glm4v.modelMounts" -}}
{{- if ne .Values.model.volume "included" }}
- name: model
  mountPath: {{ .Values.model.path | quote }}
  readOnly: true
  {{- with .Values.model.subPath }}
  subPath: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* An init container that checks the model, where there is something to check it against: (list $ image). */}}
{{- define "glm4v.verify" -}}
{{- $root := index . 0 -}}{{- $model := $root.Values.model -}}
{{- if or $model.fingerprint $model.sha256 }}
initContainers:
  - name: verify
    image: {{ include "glm4v.image" . | quote }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: [glm4v, verify, {{ $model.path | quote }}]
    args:
      {{- with $model.fingerprint }}
      - --fingerprint={{ . }}
      {{- end }}
      {{- with $model.sha256 }}
      - --sha256={{ . }}
      {{- end }}
      {{- if $model.checksumHostPath }}
      - --once=/run/glm4v/checksums
      {{- end }}
    {{- include "glm4v.containerSecurity" $root | nindent 4 }}
    resources:
      requests: {cpu: 100m, memory: 256Mi}
      limits: {memory: 512Mi}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      {{- include "glm4v.modelMounts" $root | nindent 6 }}
      {{- if $model.checksumHostPath }}
      - name: checksums
        mountPath: /run/glm4v/checksums
      {{- end }}
{{- end }}
{{- end -}}
